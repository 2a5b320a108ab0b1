"""Partial sums of a block, merged into the run's stats."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.blocks import Block
from ...triton_kernels.reduce import reduce
from ...triton_kernels.sums import Outputs
from .context import Context, kept_dots
from .launch import Launch, Purpose
from .stats import Partials, add, merge_blocks, merge_only_block

NONE = Outputs((), (), (), (), ())


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
    context.over_tiles(
        reduce,
        launch,
        block,
        carry.encoded.vectors,
        carry.encoded.data,
        carry.flag,
        carry.shifts,
        *kept_dots(block, carry.flag),
        score_factors=(factors,) if isinstance(factors, Tensor) else (),
        rows=_outputs(rows, run.counts.thresholds.rows),
        cols=_outputs(cols, run.counts.thresholds.cols),
        CHANNELS=bool(context.channels),
        KEEP=block.kept is not None and _is_first(context, general),
        DIAGONAL=context.is_diagonal(block),
        GENERAL=general,
    )


def _outputs(part: Partials | None, threshold: Tensor | None) -> Outputs:
    """The vectors that a kernel writes of a side."""
    if part is None:
        return NONE
    counted = () if part.counts is None else (threshold,)
    tops, counts, scores = (
        () if own is None else (own,) for own in (part.tops, part.counts, part.scores)
    )
    return Outputs((part.sums,), tops, counted, counts, scores)
