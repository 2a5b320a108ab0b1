"""Partial sums of a block, and their merging into the run's stats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.blocks import Block
from ...triton_kernels import merge
from ...triton_kernels.reduce import reduce
from .context import LINE, Context, first, programs
from .launch import Launch, Purpose
from .sums import SideSums, argument


@dataclass(frozen=True, eq=False)
class Partials:
    """Of one side: sums [reductions, tiles, length], their shifts in the general form, counts."""

    span: slice
    tiles: int
    sums: Tensor
    tops: Tensor | None
    counts: Tensor | None

    @property
    def place(self) -> tuple[int, int, int]:
        """First entry, how many, and how many tiles there are of each."""
        return self.span.start, self.span.stop - self.span.start, self.tiles


def reduce_block(context: Context, block: Block, general: bool) -> None:
    """Add the block to the run's sums (and counts); the general form to its own."""
    launch = context.launch(_purpose(context, block, general))
    problem = context.problem
    height, width = block.shape
    rows = cols = None
    if problem.rows:
        rows = _room(context, block, block.rows, -(-width // launch.cols), general, "rows")
    if problem.columns or problem.triangle:
        cols = _room(context, block, block.cols, -(-height // launch.rows), general, "cols")
    _launch(context, block, launch, rows, cols, general)
    if general:
        _merge(context, rows, cols)
        return
    carry = context.carry
    _add(
        context,
        "sums",
        rows,
        cols,
        argument(carry.rows, "totals", carry.spans),
        argument(carry.cols, "totals", carry.spans),
    )
    counts = context.run.counts.counts
    counted = (p if p is not None and p.counts is not None else None for p in (rows, cols))
    _add(context, "counts", *counted, (counts.rows,), (counts.cols,))


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
        ROWS=carry.rows is not None,
        COLS=_has_columns(context),
        BLOCK=LINE,
    )


def take_logs(context: Context) -> None:
    """The channels' stats, of the form that holds, for the engine to find."""
    carry, problem = context.carry, context.problem
    names = ("totals", "general", "tops", "bits")
    columns = _has_columns(context)
    stats = [_new_stats(context, side) for side in (carry.rows, carry.cols if columns else None)]
    arguments = [
        tuple(argument(side, name, carry.spans) for name in names)
        for side in (carry.rows, carry.cols)
    ]
    merge.take_logs[programs(max(problem.n, problem.m))](
        *arguments[0],
        stats[0],
        problem.n,
        *arguments[1],
        stats[1],
        problem.m,
        carry.shifts,
        carry.flag,
        ROWS=carry.rows is not None,
        COLS=columns,
        BLOCK=LINE,
    )
    for position, vectors in enumerate(context.channels):
        vectors.ready.rows, vectors.ready.cols = (
            side[position] if len(side) > position else None for side in stats
        )


def _has_columns(context: Context) -> bool:
    """Columns of their own: in the self mode they are the rows."""
    return context.carry.cols is not None and not context.problem.triangle


def _new_stats(context: Context, side: SideSums | None) -> tuple[Tensor, ...]:
    if side is None:
        return ()
    problem = context.problem
    return tuple(
        torch.empty(side.length, dtype=problem.dtype, device=problem.device) for _ in side.totals
    )


def _purpose(context: Context, block: Block, general: bool) -> Purpose:
    if general:
        return Purpose.REDUCE_GENERAL
    if block.kept is not None:
        return Purpose.REDUCE_AND_KEEP
    return Purpose.REDUCE if context.channels else Purpose.REDUCE_TERMS


def _room(
    context: Context, block: Block, span: slice, tiles: int, general: bool, side: str
) -> Partials:
    run, dtype = context.run, context.problem.dtype
    length = span.stop - span.start
    shape = (len(run.vectors), tiles, length)
    tops = counts = None
    if general:
        tops = context.partials(block, shape, dtype)
        if context.is_diagonal(block):
            tops.fill_(float("-inf"))
    elif getattr(run.counts.counts, side) is not None:
        counts = context.partials(block, (tiles, length), torch.int32)
    return Partials(span, tiles, context.partials(block, shape, dtype), tops, counts)


def _launch(
    context: Context,
    block: Block,
    launch: Launch,
    rows: Partials | None,
    cols: Partials | None,
    general: bool,
) -> None:
    run, carry = context.run, context.carry
    thresholds = run.counts.thresholds

    def both(name: str) -> tuple[Tensor, Tensor]:
        of_rows, of_cols = (None if p is None else getattr(p, name) for p in (rows, cols))
        return first(of_rows, carry.flag), first(of_cols, carry.flag)

    reduce[(launch.programs(*block.shape, context.device),)](
        *context.place(block, launch),
        carry.encoded.vectors,
        carry.encoded.data,
        carry.flag,
        carry.shifts,
        *both("sums"),
        *both("tops"),
        (first(thresholds.rows, carry.flag), first(thresholds.cols, carry.flag)),
        *both("counts"),
        first(block.kept, carry.flag),
        block.shape[1],
        CHANNELS=bool(context.channels),
        KEEP=block.kept is not None and not general,
        SUMS_ROWS=rows is not None,
        SUMS_COLS=cols is not None,
        COUNTS_ROWS=rows is not None and rows.counts is not None,
        COUNTS_COLS=cols is not None and cols.counts is not None,
        DIAGONAL=context.is_diagonal(block),
        GENERAL=general,
        **context.constants(launch),
    )


def _add(
    context: Context,
    name: str,
    rows: Partials | None,
    cols: Partials | None,
    row_totals: Any,
    col_totals: Any,
) -> None:
    """totals += partials ``name``, of the sides that there are."""
    if rows is None and cols is None:
        return
    absent = context.carry.flag
    ends = [p.span.stop for p in (rows, cols) if p is not None]
    merge.add_partials[programs(max(ends))](
        *_side_arguments(name, rows, row_totals, absent),
        *_side_arguments(name, cols, col_totals, absent),
        ROWS=rows is not None,
        COLS=cols is not None,
        BLOCK=LINE,
    )


def _side_arguments(
    name: str, part: Partials | None, totals: Any, absent: Tensor
) -> tuple[Any, ...]:
    if part is None:
        return absent, (absent,), 0, 0, 0
    return getattr(part, name), totals, *part.place


def _merge(context: Context, rows: Partials | None, cols: Partials | None) -> None:
    carry = context.carry
    sides = []
    for part, side in ((rows, carry.rows), (cols, carry.cols)):
        if part is None or side is None:
            sides += [carry.flag, carry.flag, (carry.flag,), (carry.flag,), 0, 0, 0]
        else:
            sides += [part.sums, part.tops, side.general, side.tops, *part.place]
    ends = [p.span.stop for p in (rows, cols) if p is not None]
    merge.merge_partials[programs(max(ends))](
        *sides, carry.flag, ROWS=rows is not None, COLS=cols is not None, BLOCK=LINE
    )
