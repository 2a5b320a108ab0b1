"""Arguments of stats: bounds for exponents, and values in plain torch."""

from __future__ import annotations

import math

from torch import Tensor

from ..engine.arguments import Argument
from ..engine.row_steps import LOG2E
from ..problem.spec import Stat
from .kept_out import Selection


def exponent_range(stat: Stat, argument: Argument, largest_dot: float) -> tuple[float, float]:
    """Bounds of exponents in bits; the slack covers the rounding of the dots."""
    reach = _largest(argument.high) * largest_dot * (1 + 1e-3)
    if not math.isfinite(reach):
        return -math.inf, math.inf
    low, high = -reach, reach
    for offset in (argument.row_offset, argument.col_offset):
        if offset is not None:
            low, high = low + float(offset.min()), high + float(offset.max())
    for _, weight in stat.classes:
        low, high = low + min(weight * LOG2E, 0.0), high + max(weight * LOG2E, 0.0)
    return low, high


def values_of(
    stat: Stat,
    argument: Argument,
    selection: Selection,
    dots: Tensor,
    out: Tensor,
) -> Tensor:
    """In ``out``, fp64: the exponent in bits, or what a summed function is taken of."""
    rows, cols = selection.block.rows, selection.block.cols
    out.copy_(dots)
    high, low = _of_rows(argument.high, rows), _of_rows(argument.low, rows)
    coef = high.double() + low if isinstance(high, Tensor) else high + low
    if isinstance(coef, Tensor) or coef != 1.0:
        out.mul_(coef)
    if argument.row_offset is not None:
        out.add_(argument.row_offset[rows, None])
    if argument.col_offset is not None:
        out.add_(argument.col_offset[cols])
    for program, weight in stat.classes:
        out.add_(selection.members(program), alpha=weight * LOG2E)
    return out


def _largest(coef: float | Tensor) -> float:
    if isinstance(coef, Tensor):
        return float(coef.abs().max()) if coef.numel() else 0.0
    return abs(coef)


def _of_rows(value: float | Tensor, rows: slice) -> float | Tensor:
    return value[rows, None] if isinstance(value, Tensor) else value
