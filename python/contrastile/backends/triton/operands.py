"""Embeddings as kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..aligned import aligned_rows
from .launch import Launch


@dataclass(frozen=True, eq=False)
class Embedding:
    """[rows, D] in the operands' dtype, its rows contiguous and aligned for descriptors."""

    tensor: Tensor

    @staticmethod
    def of(tensor: Tensor) -> Embedding:
        """``tensor`` itself, or a padded copy: N D work beside N M D, and no slow path for it."""
        return Embedding(aligned_rows(tensor))

    def argument(self, launch: Launch, height: int) -> Any:
        """A descriptor of ``height`` rows of it, or the pointer: also for a kernel to make one."""
        if launch.descriptors and not launch.specialize:
            return TensorDescriptor.from_tensor(self.tensor, [height, launch.depth])
        return self.tensor

    @property
    def strides(self) -> tuple[int, int]:
        """Elements from a row to the next and from a feature to the next."""
        row, feature = self.tensor.stride()
        return row, feature


def strip_argument(strip: Tensor, launch: Launch, height: int, width: int) -> Any:
    """A descriptor of a strip of G to store tiles of that shape through, or the pointer."""
    if launch.descriptors and not launch.specialize:
        return TensorDescriptor.from_tensor(strip, [height, width])
    return strip


def as_triton(dtype: torch.dtype) -> Any:
    """Triton's name of a dtype."""
    return {
        torch.float16: tl.float16,
        torch.bfloat16: tl.bfloat16,
        torch.float32: tl.float32,
        torch.float64: tl.float64,
    }[dtype]
