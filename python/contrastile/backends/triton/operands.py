"""Matrices as kernels read and write them."""

from __future__ import annotations

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
    if launch.descriptors and not launch.specialize:
        return TensorDescriptor(tensor, tensor.shape, tensor.stride(), [height, width])
    return tensor


def as_triton(dtype: torch.dtype) -> Any:
    """Triton's name of a dtype."""
    return TRITONS[dtype]
