"""Matrices as kernels read and write them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .launch import Launch

TRITONS = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def matrix(tensor: Tensor, launch: Launch, height: int, width: int) -> Any:
    """A descriptor of tiles of that shape, or the pointer: also for a kernel to make one."""
    if not launch.descriptors or launch.specialize:
        return tensor
    descriptor: TensorDescriptor = object.__new__(TensorDescriptor)
    own = _description(tensor.dtype, tensor.shape, tensor.stride(), height, width)
    descriptor.__dict__.update(own, base=tensor)
    return descriptor


@lru_cache(maxsize=1024)
def _description(
    dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...], height: int, width: int
) -> dict[str, Any]:
    """All of a descriptor but the tensor: to check it takes 10 us, here once."""
    # Of the tensor only dtype and address are looked at; those of a strip and of an embedding are
    # aligned, as this one is.
    anywhere = torch.empty(1, dtype=dtype)
    return vars(TensorDescriptor(anywhere, shape, strides, [height, width])) | {"base": None}


def as_triton(dtype: torch.dtype) -> Any:
    """Triton's name of a dtype."""
    return TRITONS[dtype]
