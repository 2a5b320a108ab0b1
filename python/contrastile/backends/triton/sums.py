"""The vectors of rows and of columns that sums are gathered in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .context import Context

Vectors = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class SideSums:
    """Of one side, one vector a reduction: the sums of the bounded form and, of channels, those of
    the general form with their shifts, and the log-sum-exps in bits.
    """

    length: int
    totals: Vectors
    general: Vectors
    tops: Vectors
    bits: Vectors

    @staticmethod
    def both(context: Context) -> tuple[SideSums | None, SideSums | None]:
        """Of rows and of columns; in the self mode these are the same."""
        problem = context.problem
        rows = _side(context, "rows", problem.n) if problem.rows else None
        if problem.triangle:
            return rows, rows
        return rows, _side(context, "cols", problem.m) if problem.columns else None


def _side(context: Context, name: str, length: int) -> SideSums:
    problem, vectors = context.problem, context.run.vectors
    totals = tuple(getattr(own.sums, name) for own in vectors)
    if not context.channels:
        return SideSums(length, totals, (), (), ())

    def new(dtype: torch.dtype) -> Vectors:
        return tuple(torch.empty(length, dtype=dtype, device=problem.device) for _ in vectors)

    double = torch.float64
    return SideSums(length, totals, new(double), new(problem.dtype), new(double))


def argument(side: SideSums | None, name: str, absent: Tensor) -> Any:
    """The vectors of a side as a kernel takes them; any tensor where there is no such side."""
    return (absent,) if side is None else getattr(side, name)
