"""Partial sums of a block, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import score_argument
from ...engine.plan import Block
from ...problem.spec import NONE
from ...triton_kernels import merge
from ...triton_kernels import rows as row_kernels
from ...triton_kernels.reduce import reduce
from ...triton_kernels.sums import Outputs
from ..gpu.forms import Form
from ..gpu.memory import Memory, Side
from .bound import Bound, kept_dots
from .launch import Purpose
from .program import LINE, Tiles, programs


@dataclass(frozen=True, eq=False)
class Partials:
    """Of one side of a block: sums [stats, tiles, length], their shifts in the general form, counts
    and sums of scores [tiles, length].
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


Parts = tuple[Partials | None, Partials | None]
NOTHING = Outputs((), (), (), (), ())


def reduce_block(bound: Bound, block: Block, form: Form, memory: Memory) -> None:
    """Add the block's sums, counts and sums of scores."""
    tiles = _tiles(bound, block, form)
    launch, (height, width) = tiles.launch, block.shape
    rows = cols = None
    if memory.rows is not None:
        rows = _room(bound, block, block.rows, -(-width // launch.cols), form, memory.rows)
    if memory.cols is not None:
        cols = _room(bound, block, block.cols, -(-height // launch.rows), form, memory.cols)
    _launch(bound, block, tiles, (rows, cols), memory)
    if bound.scene.job.given and bound.scene.spec.positives != NONE and not bound.scene.spec.ranks:
        _take_positives(bound, block, memory)
    merge_block(bound, (rows, cols), form, memory)


def merge_block(bound: Bound, parts: Parts, form: Form, memory: Memory) -> None:
    """Put partial sums where they belong."""
    sides = memory.rows, memory.cols
    if form is not Form.GENERAL:
        _add(bound, "sums", parts, memory, [None if s is None else s.totals for s in sides])
    elif bound.scene.general_block:
        _merge_only_block(bound, parts, memory)
    else:
        _merge(bound, parts, memory)
    if bound.scene.forms[0] is form:
        if bound.scene.spec.ranks:
            counts = [None if s is None else (s.counts,) for s in sides]
            _add(bound, "counts", parts, memory, counts)
        if bound.scene.spec.gaps:
            scores = [None if s is None else (s.scores,) for s in sides]
            _add(bound, "scores", parts, memory, scores)


def certify(bound: Bound, memory: Memory) -> None:
    """Set the flag where the fixed shifts of any log-sum-exp cost precision."""
    program, spec, sizes = bound.program, bound.scene.spec, bound.scene.sizes
    own_cols = None if spec.triangle else memory.cols
    names = ("totals", "general", "tops")
    start = program.vectors(
        merge.certify,
        EMPTY=tuple([stat.may_keep_none for stat in spec.stats]),
        ROWS=memory.rows is not None,
        COLS=own_cols is not None,
        BLOCK=LINE,
    )
    start(
        programs(max(sizes.n, sizes.m)),
        *(_argument(memory, memory.rows, name) for name in names),
        sizes.n,
        *(_argument(memory, memory.cols, name) for name in names),
        sizes.m,
        memory.spans,
        memory.flag,
    )


def take_logs(bound: Bound, memory: Memory) -> None:
    """The log-sum-exps, of the form that holds."""
    program, spec, sizes = bound.program, bound.scene.spec, bound.scene.sizes
    own_cols = None if spec.triangle else memory.cols
    # Without a fixed form the kernel finds the general one's sums twice.
    totals = "totals" if Form.FIXED in bound.scene.forms else "general"
    names = (totals, "general", "tops", "bits", "stats")
    start = program.vectors(
        merge.take_logs, ROWS=memory.rows is not None, COLS=own_cols is not None, BLOCK=LINE
    )
    start(
        programs(max(sizes.n, sizes.m)),
        *(_argument(memory, memory.rows, name) for name in names),
        sizes.n,
        *(_argument(memory, memory.cols, name) for name in names),
        sizes.m,
        memory.shifts,
        memory.flag,
    )


def _tiles(bound: Bound, block: Block, form: Form) -> Tiles:
    program, scene = bound.program, bound.scene
    diagonal, kept, given = scene.is_diagonal(block), block.kept_at is not None, scene.job.given
    key = "reduce", form, diagonal, kept, block.shape
    found = program.tiles.get(key)
    if found is None:
        spec, is_first = scene.spec, scene.forms[0] is form
        found = program.tiles[key] = program.over_tiles(
            reduce,
            program.launch(_purpose(form, kept, given, spec.both_sides)),
            block.shape,
            CHANNELS=form is not Form.SUM,
            KEEP=kept and is_first and not given,
            GIVEN=given,
            DIAGONAL=diagonal,
            GENERAL=form is Form.GENERAL,
        )
    return found


def _purpose(form: Form, kept: bool, given: bool, cols: bool) -> Purpose:
    if given:
        return Purpose.REDUCE_GIVEN
    if form is Form.GENERAL:
        return Purpose.REDUCE_GENERAL
    if kept:
        return Purpose.REDUCE_AND_KEEP
    if form is Form.SUM:
        return Purpose.REDUCE_TERMS
    return Purpose.REDUCE if cols else Purpose.REDUCE_ROWS


def room(bound: Bound, block: Block, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """For partial sums; zeroed where tiles below a diagonal leave some out."""
    make = torch.zeros if bound.scene.is_diagonal(block) else torch.empty
    return make(shape, dtype=dtype, device=bound.scene.sizes.device)


def _room(bound: Bound, block: Block, span: slice, tiles: int, form: Form, side: Side) -> Partials:
    scene, dtype = bound.scene, bound.scene.sizes.dtype
    length = span.stop - span.start
    shape = (len(scene.spec.stats), tiles, length)
    tops = counts = scores = None
    if form is Form.GENERAL:
        tops = room(bound, block, shape, dtype)
        if scene.is_diagonal(block):
            tops.fill_(float("-inf"))
    if scene.forms[0] is form:
        if side.counts is not None:
            counts = room(bound, block, (tiles, length), torch.int32)
        if side.scores is not None:
            scores = room(bound, block, (tiles, length), torch.float64)
    return Partials(span, tiles, room(bound, block, shape, dtype), tops, counts, scores)


def _launch(bound: Bound, block: Block, tiles: Tiles, parts: Parts, memory: Memory) -> None:
    rows, cols = parts
    bound.start(
        tiles,
        block,
        bound.vectors,
        bound.data_of(block),
        memory.flag,
        memory.shifts,
        *kept_dots(bound, block, memory.flag),
        _outputs(rows, memory.thresholds.rows),
        _outputs(cols, memory.thresholds.cols),
        _score_factors(bound),
    )


def _take_positives(bound: Bound, block: Block, memory: Memory) -> None:
    """Those that lie in the block."""
    scene, sizes = bound.scene, bound.scene.sizes
    given, stride = kept_dots(bound, block, memory.flag)
    triangle = scene.spec.triangle
    start = bound.program.vectors(row_kernels.take_positives, stride, TRIANGLE=triangle, BLOCK=LINE)
    start(
        programs(sizes.n),
        given,
        stride,
        block.rows.start,
        block.rows.stop,
        block.cols.start,
        block.cols.stop,
        scene.job.positives,
        memory.positive,
        sizes.m,
        sizes.n,
    )


def _outputs(part: Partials | None, threshold: Tensor | None) -> Outputs:
    """The vectors that a kernel writes of a side."""
    if part is None:
        return NOTHING
    counts = _one(part.counts)
    above = _one(threshold) if counts else ()
    return Outputs((part.sums,), _one(part.tops), above, counts, _one(part.scores))


def _one(tensor: Tensor | None) -> tuple[Tensor, ...]:
    return () if tensor is None else (tensor,)


def _score_factors(bound: Bound) -> tuple[Tensor, ...]:
    """What the dot products of each row are multiplied by before they are summed, if anything."""
    scene = bound.scene
    if not scene.spec.gaps:
        return ()
    factors = score_argument(scene.job.scores, scene.sizes.dtype).high
    return (factors,) if isinstance(factors, Tensor) else ()


def _add(bound: Bound, name: str, parts: Parts, memory: Memory, totals: list[Any]) -> None:
    """totals += partials ``name``, of the sides that have them."""
    sides: list[Any] = []
    for part, own in zip(parts, totals, strict=True):
        if part is None:
            sides += [memory.flag, (memory.flag,), 0, 0, 0]
        else:
            sides += [getattr(part, name), own, *part.place]
    rows, cols = (part is not None for part in parts)
    start = bound.program.vectors(merge.add_partials, name, ROWS=rows, COLS=cols, BLOCK=LINE)
    start(_grid(parts), *sides)


def _merge(bound: Bound, parts: Parts, memory: Memory) -> None:
    """The general form's sums, of one block after the other."""
    sides: list[Any] = []
    for part, side in zip(parts, (memory.rows, memory.cols), strict=True):
        if part is None or side is None:
            sides += [memory.flag, memory.flag, (memory.flag,), (memory.flag,), 0, 0, 0]
        else:
            sides += [part.sums, part.tops, side.general, side.tops, *part.place]
    rows, cols = (part is not None for part in parts)
    start = bound.program.vectors(merge.merge_partials, ROWS=rows, COLS=cols, BLOCK=LINE)
    start(_grid(parts), *sides, memory.flag)


def _merge_only_block(bound: Bound, parts: Parts, memory: Memory) -> None:
    """The general form's stats, where there is one block and one form."""
    diagonal = bound.scene.spec.triangle
    sides: list[Any] = []
    for part, side in zip(parts, (memory.rows, memory.cols), strict=True):
        if part is None or side is None:
            sides += [memory.flag, memory.flag, *[(memory.flag,)] * 3, 0, 0]
        else:
            length, tiles = part.place[1:]
            sides += [part.sums, part.tops, side.tops, side.bits, side.stats, length, tiles]
    rows, cols = (part is not None for part in parts)
    start = bound.program.vectors(
        merge.merge_only_block,
        ROWS=rows,
        COLS=cols and not diagonal,
        DIAGONAL=diagonal,
        BLOCK=LINE,
    )
    start(_grid(parts), *sides)


def _argument(memory: Memory, side: Side | None, name: str) -> Any:
    """The vectors of a side as a kernel takes them; any tensor where there is no such side."""
    return (memory.flag,) if side is None else getattr(side, name)


def _grid(parts: Parts) -> int:
    """Programs own entries counted from the start of a vector, not of a block."""
    return programs(max(part.span.stop for part in parts if part is not None))
