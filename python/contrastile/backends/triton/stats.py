"""From partial sums to the run's stats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...triton_kernels import merge
from .context import LINE, Context, programs
from .sums import SideSums, argument


@dataclass(frozen=True, eq=False)
class Partials:
    """Of one side: sums [reductions, tiles, length], their shifts in the general form, counts and
    sums of scores [tiles, length].
    """

    span: slice
    tiles: int
    sums: Tensor
    tops: Tensor | None
    counts: Tensor | None
    scores: Tensor | None

    @property
    def place(self) -> tuple[int, int, int]:
        """First entry, how many, and how many tiles there are of each."""
        return self.span.start, self.span.stop - self.span.start, self.tiles


def add(
    context: Context,
    name: str,
    rows: Partials | None,
    cols: Partials | None,
    row_totals: Any,
    col_totals: Any,
) -> None:
    """totals += partials ``name``, of the sides that have them."""
    sides: list[Any] = []
    there: list[Partials | None] = []
    for part, totals in ((rows, row_totals), (cols, col_totals)):
        own = None if part is None else getattr(part, name)
        there.append(None if own is None else part)
        if part is None or own is None:
            sides += [context.carry.flag, (context.carry.flag,), 0, 0, 0]
        else:
            sides += [own, totals, *part.place]
    merge.add_partials[_grid(*there)](
        *sides, ROWS=there[0] is not None, COLS=there[1] is not None, BLOCK=LINE
    )


def merge_blocks(context: Context, rows: Partials | None, cols: Partials | None) -> None:
    """The general form's sums, of one block after the other."""
    carry = context.carry
    sides: list[Any] = []
    for part, side in ((rows, carry.rows), (cols, carry.cols)):
        if part is None or side is None:
            sides += [carry.flag, carry.flag, (carry.flag,), (carry.flag,), 0, 0, 0]
        else:
            sides += [part.sums, part.tops, side.general, side.tops, *part.place]
    merge.merge_partials[_grid(rows, cols)](
        *sides, carry.flag, ROWS=rows is not None, COLS=cols is not None, BLOCK=LINE
    )


def merge_only_block(context: Context, rows: Partials | None, cols: Partials | None) -> None:
    """The general form's stats, where there is one block and one form."""
    carry = context.carry
    diagonal = context.problem.triangle
    stats = _stats(context)
    sides: list[Any] = []
    for part, side, own in zip((rows, cols), (carry.rows, carry.cols), stats, strict=True):
        if part is None or side is None:
            sides += [carry.flag, carry.flag, *[(carry.flag,)] * 3, 0, 0]
        else:
            length, tiles = part.place[1:]
            sides += [part.sums, part.tops, side.tops, side.bits, own, length, tiles]
    merge.merge_only_block[_grid(rows, cols)](
        *sides,
        ROWS=rows is not None,
        COLS=cols is not None and not diagonal,
        DIAGONAL=diagonal,
        BLOCK=LINE,
    )


def certify(context: Context) -> None:
    """Set the flag where the fixed shifts of any channel cost precision."""
    carry, problem = context.carry, context.problem
    names = ("totals", "general", "tops")
    merge.certify[programs(max(problem.n, problem.m))](
        *(argument(carry.rows, name, carry.spans) for name in names),
        problem.n,
        *(argument(carry.cols, name, carry.spans) for name in names),
        problem.m,
        carry.spans,
        carry.flag,
        EMPTY=carry.encoded.may_keep_none,
        ROWS=carry.rows is not None,
        COLS=_own_columns(context) is not None,
        BLOCK=LINE,
    )


def take_logs(context: Context) -> None:
    """The channels' stats, of the form that holds."""
    carry, problem = context.carry, context.problem
    names = ("totals", "general", "tops", "bits")
    rows, cols = (
        tuple(argument(side, name, carry.spans) for name in names)
        for side in (carry.rows, carry.cols)
    )
    row_stats, col_stats = _stats(context)
    merge.take_logs[programs(max(problem.n, problem.m))](
        *rows,
        row_stats,
        problem.n,
        *cols,
        col_stats,
        problem.m,
        carry.shifts,
        carry.flag,
        ROWS=carry.rows is not None,
        COLS=_own_columns(context) is not None,
        BLOCK=LINE,
    )


def _own_columns(context: Context) -> SideSums | None:
    """The columns' sums, unless they are the rows'."""
    return None if context.problem.triangle else context.carry.cols


def _stats(context: Context) -> list[tuple[Tensor, ...]]:
    """Room for the log-sum-exps of rows and of columns, where the engine finds them."""
    both = []
    for name, side in (("rows", context.carry.rows), ("cols", _own_columns(context))):
        own: tuple[Tensor, ...] = ()
        if side is not None:
            own = tuple(torch.empty_like(top) for top in side.tops)
            parts = zip(context.channels, own, side.bits, strict=True)
            for vectors, stats, bits in parts:
                setattr(vectors.ready, name, stats)
                setattr(vectors.bits, name, bits)
        both.append(own)
    return both


def _grid(rows: Partials | None, cols: Partials | None) -> tuple[int]:
    """Programs own entries counted from the start of a vector, not of a block."""
    return programs(max(part.span.stop for part in (rows, cols) if part is not None))
