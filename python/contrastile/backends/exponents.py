"""Exponents of a channel's powers: bounds for them, and their values in plain torch."""

from __future__ import annotations

import math

from torch import Tensor

from ..engine.blocks import Block
from ..engine.row_steps import LOG2E
from ..engine.vectors import ChannelVectors, TermVectors, Vectors


def exponent_range(vectors: ChannelVectors, largest_dot: float) -> tuple[float, float]:
    """Bounds of a channel's exponents in bits; the slack covers the rounding of the dots."""
    reach = _largest_coef(vectors) * largest_dot * (1 + 1e-3)
    if not math.isfinite(reach):
        return -math.inf, math.inf
    low, high = -reach, reach
    for offset in (vectors.row_offset, vectors.col_offset):
        if offset is not None:
            low, high = low + float(offset.min()), high + float(offset.max())
    for _, weight in vectors.reduction.class_log_weights:
        low, high = low + min(weight * LOG2E, 0.0), high + max(weight * LOG2E, 0.0)
    return low, high


def _largest_coef(vectors: ChannelVectors) -> float:
    coef = vectors.coef_hi
    if isinstance(coef, Tensor):
        return float(coef.abs().max()) if coef.numel() else 0.0
    return abs(coef)


def argument(vectors: Vectors, dots: Tensor, block: Block, out: Tensor) -> Tensor:
    """In ``out``, fp64: the exponent in bits (channel) or the argument of phi (term)."""
    rows, cols = block.rows, block.cols
    out.copy_(dots)
    coef = _coefficient(vectors, rows)
    if not isinstance(coef, float) or coef != 1.0:
        out.mul_(coef)
    if vectors.row_offset is not None:
        out.add_(vectors.row_offset[rows, None])
    if vectors.col_offset is not None:
        out.add_(vectors.col_offset[cols])
    if isinstance(vectors, ChannelVectors):
        for pairs, weight in vectors.reduction.class_log_weights:
            out.add_(pairs.block(rows, cols), alpha=weight * LOG2E)
    return out


def _coefficient(vectors: Vectors, rows: slice) -> float | Tensor:
    if isinstance(vectors, TermVectors):
        return _of_rows(vectors.coef, rows)
    high, low = _of_rows(vectors.coef_hi, rows), _of_rows(vectors.coef_lo, rows)
    return high.double() + low if isinstance(high, Tensor) else high + low


def _of_rows(value: float | Tensor, rows: slice) -> float | Tensor:
    return value[rows, None] if isinstance(value, Tensor) else value
