"""Embeddings as GPU kernels read them: rows contiguous and aligned."""

from __future__ import annotations

from torch import Tensor

# Of a matrix's base address and row stride, in bytes: what copy engines ask for.
ALIGNMENT = 16


def aligned_rows(tensor: Tensor) -> Tensor:
    """``tensor`` itself, or a padded copy: N D work beside N M D, and no slow path for it."""
    tensor = tensor.resolve_neg()
    if _aligned(tensor):
        return tensor
    step = ALIGNMENT // tensor.element_size()
    rows, size = tensor.shape
    if size == 0:
        return tensor.new_zeros((rows, step))
    padded = tensor.new_empty((rows, -(-size // step) * step))
    padded[:, :size] = tensor
    return padded[:, :size]


def _aligned(tensor: Tensor) -> bool:
    size = tensor.element_size()
    row, feature = tensor.stride()
    return (
        feature == 1
        and tensor.data_ptr() % ALIGNMENT == 0
        and row * size % ALIGNMENT == 0
        and row >= tensor.shape[1]
    )
