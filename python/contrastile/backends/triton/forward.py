"""Partial sums of a block, merged into the run's stats."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.blocks import Block
from ...triton_kernels.reduce import reduce
from .context import Context, first, kept_dots
from .launch import Launch, Purpose
from .stats import Partials, add, merge_blocks, merge_only_block


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
    if not general:
        carry = context.carry
        totals = (None if side is None else side.totals for side in (carry.rows, carry.cols))
        add(context, "sums", rows, cols, *totals)
    elif len(context.forms) == 1:
        merge_only_block(context, rows, cols)
    else:
        merge_blocks(context, rows, cols)
    if any(part is not None and part.counts is not None for part in (rows, cols)):
        counts = context.run.counts.counts
        add(context, "counts", rows, cols, (counts.rows,), (counts.cols,))
    summed = context.run.score_sums
    if summed is not None and _is_first(context, general):
        add(context, "scores", rows, cols, (summed.sums.rows,), (summed.sums.cols,))


def _purpose(context: Context, block: Block, general: bool) -> Purpose:
    if general:
        return Purpose.REDUCE_GENERAL
    if block.kept is not None:
        return Purpose.REDUCE_AND_KEEP
    if not context.channels:
        return Purpose.REDUCE_TERMS
    both = context.problem.columns or context.problem.triangle
    return Purpose.REDUCE if both else Purpose.REDUCE_ROWS


def _is_first(context: Context, general: bool) -> bool:
    """Whether this form is the one that counts, and keeps dot products."""
    return context.forms[0] == general


def _room(
    context: Context, block: Block, span: slice, tiles: int, general: bool, side: str
) -> Partials:
    run, dtype = context.run, context.problem.dtype
    length = span.stop - span.start
    shape = (len(run.vectors), tiles, length)
    tops = counts = scores = None
    if general:
        tops = context.partials(block, shape, dtype)
        if context.is_diagonal(block):
            tops.fill_(float("-inf"))
    if _is_first(context, general) and getattr(run.counts.counts, side) is not None:
        counts = context.partials(block, (tiles, length), torch.int32)
    if _is_first(context, general) and run.score_sums is not None:
        scores = context.partials(block, (tiles, length), torch.float64)
    return Partials(span, tiles, context.partials(block, shape, dtype), tops, counts, scores)


def _launch(
    context: Context,
    block: Block,
    launch: Launch,
    rows: Partials | None,
    cols: Partials | None,
    general: bool,
) -> None:
    run, carry = context.run, context.carry
    factors = None if run.score_sums is None else run.score_sums.coef
    scores = 0
    if run.score_sums is not None and _is_first(context, general):
        scores = 2 if isinstance(factors, Tensor) else 1
    thresholds = run.counts.thresholds

    def both(name: str) -> tuple[Tensor, Tensor]:
        of_rows, of_cols = (None if p is None else getattr(p, name) for p in (rows, cols))
        return first(of_rows, carry.flag), first(of_cols, carry.flag)

    context.over_tiles(
        reduce,
        launch,
        block,
        carry.encoded.vectors,
        carry.encoded.data,
        carry.flag,
        carry.shifts,
        *both("sums"),
        *both("tops"),
        (first(thresholds.rows, carry.flag), first(thresholds.cols, carry.flag)),
        *both("counts"),
        factors if isinstance(factors, Tensor) else carry.flag,
        *both("scores"),
        *kept_dots(block, carry.flag),
        CHANNELS=bool(context.channels),
        KEEP=block.kept is not None and _is_first(context, general),
        SUMS_ROWS=rows is not None,
        SUMS_COLS=cols is not None,
        COUNTS_ROWS=rows is not None and rows.counts is not None,
        COUNTS_COLS=cols is not None and cols.counts is not None,
        SCORES=scores,
        DIAGONAL=context.is_diagonal(block),
        GENERAL=general,
    )
