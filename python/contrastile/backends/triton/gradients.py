"""The coefficients of G from the upstream gradients, and strips of G made with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...engine.plan import Block
from ...engine.state import State
from ...triton_kernels import merge, upstream, weights
from ...triton_kernels.merge import PartialProducts
from ...triton_kernels.tile_weights import Factors
from ..gpu.entries import Entries, Entry, Pair
from ..gpu.forms import Form
from ..gpu.kernels import Output
from .bound import Bound, first, kept_dots
from .launch import Purpose
from .operands import as_triton, matrix
from .program import LINE, SWEEP, Tiles, programs
from .sums import Partials, room

# Up to so many entries every program looks for the largest itself: that takes the device less time
# than the launch of a kernel for it would take the host.
DIRECT = 8 * SWEEP


def form_coefficients(bound: Bound, state: State, entries: Entries) -> Tensor | None:
    """Two launches; one up to DIRECT entries, or where G needs no unit. Returns the unit."""
    assert state.shifts is not None and state.flag is not None
    sizes, forms, program = bound.scene.sizes, bound.scene.forms, bound.program
    every = list(entries.each())
    of_columns = tuple([int(entry.of_columns) for entry in every])
    grads = [_times_factor(entry) for entry in every]
    vectors, sides = tuple(grads), of_columns
    if entries.positive is not None:
        vectors, sides = (*vectors, entries.positive), (*sides, 0)
    length = max(sizes.n, sizes.m)
    sweeps = programs(length, SWEEP)
    unit = parts = None
    if _needs_unit(bound):
        unit = torch.empty((), dtype=sizes.dtype, device=sizes.device)
    if unit is not None and length > DIRECT:
        parts = torch.empty((len(vectors), sweeps), dtype=sizes.dtype, device=sizes.device)
        largest = program.vectors(upstream.largest_entries, sides, OF_COLUMNS=sides, BLOCK=SWEEP)
        largest(sweeps, vectors, sizes.n, sizes.m, parts)
    channels = tuple([entry.channel for entry in every])
    start = program.vectors(
        upstream.coefficients,
        channels,
        sides,
        entries.of_loss is not None,
        CHANNEL=channels,
        OF_COLUMNS=sides,
        FIXED=Form.FIXED in forms,
        GENERAL=Form.GENERAL in forms,
        TWICE=bound.scene.spec.triangle,
        UNIT=unit is not None,
        DIRECT=parts is None,
        SCALED=entries.of_loss is not None,
        BLOCK=LINE,
        SWEEP=SWEEP,
    )
    start(
        programs(length),
        vectors,
        tuple([first(entry.bits, grad) for entry, grad in zip(every, grads, strict=True)]),
        tuple([first(entry.tops, grad) for entry, grad in zip(every, grads, strict=True)]),
        tuple([entry.out for entry in every]),
        sizes.n,
        sizes.m,
        state.shifts,
        state.flag,
        first(parts, state.shifts),
        sweeps,
        first(unit, state.shifts),
        first(entries.of_loss, state.shifts),
        bound.split,
    )
    return unit


def weigh_block(
    bound: Bound,
    block: Block,
    output: Output,
    state: State,
    entries: Entries,
    sums: Partials | None = None,
) -> None:
    """unit G of the block, positives and products included.

    ``sums``: of a function, to be filled beside, as :func:`room_for_sums` makes them.
    """
    parts = [_weigh(bound, block, output, state, entries, form, sums) for form in bound.scene.forms]
    if entries.positive is not None:
        _put_positives(bound, block, output, state, entries, parts)
    elif output.products is not None:
        _add_products(bound, block, output, state, parts)


def room_for_sums(bound: Bound, block: Block) -> Partials:
    """For the sums of rows that come with the weights of a block, one of each part of a tile."""
    launch = bound.program.launch(Purpose.WEIGH_AND_SUM)
    height, width = block.shape
    count = -(-width // launch.cols) * launch.parts
    sums = room(bound, block, (len(bound.scene.spec.stats), count, height), bound.scene.sizes.dtype)
    return Partials(block.rows, count, sums, None, None, None)


def _times_factor(entry: Entry) -> Tensor:
    return entry.grad if entry.factor == 1.0 else entry.grad * entry.factor


def _needs_unit(bound: Bound) -> bool:
    """For G in half precision; and for coefficients above a fixed shift, which have up to 127 bits
    of their own beside the upstream gradient's.
    """
    dtype = bound.scene.sizes.dtype
    fixed = Form.FIXED in bound.scene.forms and dtype == torch.float32
    return bound.scene.job.operand_dtype != dtype or fixed


def _weigh(
    bound: Bound,
    block: Block,
    output: Output,
    state: State,
    entries: Entries,
    form: Form,
    sums: Partials | None,
) -> Tensor:
    """Write the strip; what is returned are the partial row products [tiles, height]."""
    assert state.shifts is not None and state.flag is not None
    scene, out, flag = bound.scene, output.weights, state.flag
    tiles = _tiles(bound, block, output, entries, form, sums is not None)
    products = state.shifts
    if output.products is not None:
        products = partial_products(bound, block, tiles)
    bound.start(
        tiles,
        block,
        bound.vectors,
        tuple([_factors(pair) for pair in entries.stats]),
        _factors(entries.lines),
        bound.data_of(block),
        flag,
        state.shifts,
        *strip_arguments(out, tiles, scene.is_diagonal(block), flag),
        out.stride(0),
        products,
        flag if sums is None else sums.sums,
        *kept_dots(bound, block, flag),
    )
    return products


def partial_products(bound: Bound, block: Block, tiles: Tiles) -> Tensor:
    """Room for row sums of the parts of a block's tiles."""
    count = -(-block.shape[1] // tiles.launch.cols) * tiles.launch.parts
    return room(bound, block, (count, block.shape[0]), bound.scene.sizes.dtype)


def strip_arguments(out: Tensor, tiles: Tiles, diagonal: bool, absent: Tensor) -> tuple[Any, Any]:
    """A strip to store tiles to, and to store them transposed."""
    launch = tiles.launch
    width = launch.cols // launch.parts
    mirror = matrix(out, launch, width, launch.rows) if diagonal else absent
    return matrix(out, launch, launch.rows, width), mirror


def _factors(pair: Pair) -> Factors:
    """The coefficients of rows and of columns, and their shifts; empty for what there is not."""
    made: list[tuple[Tensor, ...]] = []
    for entry in pair:
        made.append(() if entry is None else (entry.out,))
        made.append(() if entry is None or entry.tops is None else (entry.tops,))
    return Factors(*made)


def _tiles(
    bound: Bound, block: Block, output: Output, entries: Entries, form: Form, sums: bool
) -> Tiles:
    program, diagonal = bound.program, bound.scene.is_diagonal(block)
    kept, products = block.kept_at is not None, output.products is not None
    # Which of them there are.
    sides = tuple([entry is None for pair in (*entries.stats, entries.lines) for entry in pair])
    key = "weigh", form, diagonal, kept, products, sums, sides, block.shape
    found = program.tiles.get(key)
    if found is None:
        launch = program.launch(_purpose(form, diagonal, kept, sums))
        found = program.tiles[key] = program.over_tiles(
            weights.weigh,
            launch,
            block.shape,
            CHANNELS=form is not Form.SUM,
            KEPT=kept,
            PRODUCTS=products,
            SUMS=sums,
            DIAGONAL=diagonal,
            GENERAL=form is Form.GENERAL,
            OUT=as_triton(program.operand_dtype),
            PARTS=launch.parts,
        )
    return found


def _purpose(form: Form, diagonal: bool, kept: bool, sums: bool) -> Purpose:
    if sums:
        return Purpose.WEIGH_AND_SUM
    if kept:
        return Purpose.WEIGH_KEPT
    if diagonal:
        general = form is Form.GENERAL
        return Purpose.WEIGH_DIAGONAL_GENERAL if general else Purpose.WEIGH_DIAGONAL
    if form is Form.GENERAL:
        return Purpose.WEIGH_GENERAL
    return Purpose.WEIGH_TERMS if form is Form.SUM else Purpose.WEIGH


def _add_products(
    bound: Bound, block: Block, output: Output, state: State, parts: list[Tensor]
) -> None:
    assert state.flag is not None and state.shifts is not None
    length = block.shape[0]
    start = bound.program.vectors(
        merge.add_products, UNIT=output.unit is not None, GENERAL=len(parts) > 1, BLOCK=LINE
    )
    start(
        programs(length),
        *_partial(parts, state.flag),
        output.products,
        block.rows.start,
        length,
        first(output.unit, state.shifts),
    )


def _partial(parts: list[Tensor], flag: Tensor) -> tuple[PartialProducts, int, int]:
    """Those of the fixed form and of the general one; of one form alone, twice the same."""
    one, other = parts[0], parts[-1]
    return PartialProducts(one, other, flag), one.shape[0], other.shape[0]


def _put_positives(
    bound: Bound,
    block: Block,
    output: Output,
    state: State,
    entries: Entries,
    parts: list[Tensor],
) -> None:
    assert state.flag is not None and state.shifts is not None
    scene, out, products = bound.scene, output.weights, output.products
    key = products is not None, out.stride(0), entries.of_loss is not None
    start = bound.program.vectors(
        weights.put_positives,
        key,
        UNIT=output.unit is not None,
        TRIANGLE=scene.spec.triangle,
        PRODUCTS=products is not None,
        GENERAL=len(parts) > 1,
        SCALED=entries.of_loss is not None,
        BLOCK=LINE,
    )
    start(
        programs(scene.sizes.n),
        out,
        out.stride(0),
        block.rows.start,
        block.rows.stop,
        block.cols.start,
        block.cols.stop,
        scene.job.positives,
        entries.positive,
        first(entries.of_loss, state.shifts),
        state.positive,
        first(output.unit, state.shifts),
        first(products, state.flag),
        *_partial(parts, state.flag),
        scene.sizes.n,
    )
