"""Partial sums of a block, and their merging into the run's vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.blocks import Block
from ...engine.vectors import ChannelVectors
from ...triton_kernels import merge
from ...triton_kernels.reduce import reduce
from .context import LINE, Context, first, programs
from .launch import Launch, Purpose


@dataclass(frozen=True, eq=False)
class Partials:
    """Of one side: sums [reductions, tiles, length], their shifts in the general form, counts."""

    span: slice
    tiles: int
    sums: Tensor
    tops: Tensor | None
    counts: Tensor | None


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
    for name, part in (("rows", rows), ("cols", cols)):
        if part is not None:
            _merge(context, name, part, general)


def add_partials(
    context: Context, partials: Tensor, totals: Tensor, span: slice, tiles: int, general: bool
) -> None:
    """totals[span] += partials [tiles, length], if it was the form that ran."""
    length = span.stop - span.start
    merge.add_partials[programs(length)](
        partials, totals, span.start, length, tiles, context.carry.flag, FLAG=general, BLOCK=LINE
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

    keep = block.kept is not None and not general
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
        KEEP=keep,
        SUMS_ROWS=rows is not None,
        SUMS_COLS=cols is not None,
        COUNTS_ROWS=rows is not None and rows.counts is not None,
        COUNTS_COLS=cols is not None and cols.counts is not None,
        DIAGONAL=context.is_diagonal(block),
        GENERAL=general,
        **context.constants(launch),
    )


def _merge(context: Context, side: str, part: Partials, general: bool) -> None:
    for position, vectors in enumerate(context.run.vectors):
        totals = getattr(vectors.sums, side)
        if part.tops is None:
            add_partials(context, part.sums[position], totals, part.span, part.tiles, general)
            continue
        assert isinstance(vectors, ChannelVectors)
        length = part.span.stop - part.span.start
        merge.merge_partials[programs(length)](
            part.sums[position],
            part.tops[position],
            totals,
            getattr(vectors.shifts, side),
            part.span.start,
            length,
            part.tiles,
            context.carry.flag,
            BLOCK=LINE,
        )
    if part.counts is not None:
        totals = getattr(context.run.counts.counts, side)
        add_partials(context, part.counts, totals, part.span, part.tiles, general)
