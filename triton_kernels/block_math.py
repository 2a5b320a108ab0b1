"""A sweep's work on a block, number by number: factors, maps, what their gradients are made of.

Blocks are contiguous, ``stride`` is their width; absent vectors are empty tuples. What is made of
several numbers is made in fp64: beside the loads from memory that costs nothing. Sums are of a tile
each, [tiles, length], in fp64; ``merge.add_partials`` adds them in order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .block_maps import wide

# A block's height and width: kernels are not compiled anew for another.
SHAPE = ["height", "width"]


class Spot(NamedTuple):
    """A tile of a block: its place among tiles, its rows and columns, those that there are, and
    where its numbers lie.
    """

    tile_row: Any
    tile_col: Any
    rows: Any
    cols: Any
    in_rows: Any
    in_cols: Any
    inside: Any
    at: Any


@triton.jit
def spot_of(height, width, stride, ROWS: tl.constexpr, COLS: tl.constexpr):
    """That of a program."""
    col_tiles = tl.cdiv(width, COLS)
    tile_row, tile_col = tl.program_id(0) // col_tiles, tl.program_id(0) % col_tiles
    rows = tile_row * ROWS + tl.arange(0, ROWS)
    cols = tile_col * COLS + tl.arange(0, COLS)
    in_rows, in_cols = rows < height, cols < width
    at = rows.to(tl.int64)[:, None] * stride + cols.to(tl.int64)[None, :]
    inside = in_rows[:, None] & in_cols[None, :]
    return Spot(tile_row, tile_col, rows, cols, in_rows, in_cols, inside, at)


@triton.jit(do_not_specialize=SHAPE)
def scale_block(
    block, row, col, out, height, width, stride, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """out = row_i col_j block; ``out`` may be the block."""
    spot = spot_of(height, width, stride, ROWS, COLS)
    value = wide(tl.load(block + spot.at, mask=spot.inside, other=0.0))
    value = _times_factors(value, row, col, spot)
    tl.store(out + spot.at, value.to(out.dtype.element_ty), mask=spot.inside)


@triton.jit(do_not_specialize=SHAPE)
def map_block(
    planes,
    row,
    col,
    out,
    height,
    width,
    stride,
    MAP: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """The mapped plane."""
    spot = spot_of(height, width, stride, ROWS, COLS)
    found = _mapped(planes, row, col, spot, MAP)
    tl.store(out + spot.at, found.value, mask=spot.inside)


@triton.jit(do_not_specialize=SHAPE)
def map_gradients(
    planes,
    row,
    col,
    grad,
    outs,
    row_sums,
    col_sums,
    height,
    width,
    stride,
    MAP: tl.constexpr,
    TARGETS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """``grad`` times the derivatives of a map: by each plane to ``outs``, as TARGETS says (0:
    nowhere, 1: there, 2: added to what is there), by the row's and the column's number to the sums.
    0 where ``grad`` is, even where the map is not finite.
    """
    spot = spot_of(height, width, stride, ROWS, COLS)
    found = _mapped(planes, row, col, spot, MAP)
    g = wide(tl.load(grad + spot.at, mask=spot.inside, other=0.0))
    for p in tl.static_range(len(outs)):
        if TARGETS[p] > 0:
            value = _through(g, found.planes[p])
            if TARGETS[p] == 2:
                value += wide(tl.load(outs[p] + spot.at, mask=spot.inside, other=0.0))
            tl.store(outs[p] + spot.at, value.to(outs[p].dtype.element_ty), mask=spot.inside)
    if len(row_sums) == 1:
        _store_row_sums(_through(g, found.row), row_sums[0], height, spot)
    if len(col_sums) == 1:
        _store_col_sums(_through(g, found.col), col_sums[0], width, spot)


@triton.jit(do_not_specialize=SHAPE)
def fold(
    grad,
    value,
    row,
    col,
    out,
    row_sums,
    col_sums,
    height,
    width,
    stride,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """out = row_i col_j grad, or with ADD added to it; the sums of grad times ``value``."""
    spot = spot_of(height, width, stride, ROWS, COLS)
    g = wide(tl.load(grad + spot.at, mask=spot.inside, other=0.0))
    if len(row_sums) + len(col_sums) > 0:
        product = g * wide(tl.load(value + spot.at, mask=spot.inside, other=0.0))
        if len(row_sums) == 1:
            _store_row_sums(product, row_sums[0], height, spot)
        if len(col_sums) == 1:
            _store_col_sums(product, col_sums[0], width, spot)
    total = _times_factors(g, row, col, spot)
    if ADD:
        total += wide(tl.load(out + spot.at, mask=spot.inside, other=0.0))
    tl.store(out + spot.at, total.to(out.dtype.element_ty), mask=spot.inside)


@triton.jit
def _times_factors(value, row, col, spot):
    if len(row) == 1:
        value = value * wide(tl.load(row[0] + spot.rows, mask=spot.in_rows, other=0.0))[:, None]
    if len(col) == 1:
        value = value * wide(tl.load(col[0] + spot.cols, mask=spot.in_cols, other=0.0))[None, :]
    return value


@triton.jit
def _mapped(planes, row, col, spot, MAP: tl.constexpr):
    """The map of a tile; its record says what absent numbers of rows and columns are."""
    numbers = (tl.load(planes[0] + spot.at, mask=spot.inside, other=0.0),)
    for p in tl.static_range(1, len(planes)):
        number = tl.load(planes[p] + spot.at, mask=spot.inside, other=0.0)
        # Triton unpacks no tuples.
        numbers = numbers + (number,)  # type: ignore[assignment] # noqa: RUF005
    dtype = planes[0].dtype.element_ty
    of_rows = tl.full([1, 1], MAP.absent, dtype)
    of_cols = tl.full([1, 1], MAP.absent, dtype)
    if len(row) == 1:
        of_rows = tl.load(row[0] + spot.rows, mask=spot.in_rows, other=0.0)[:, None]
    if len(col) == 1:
        of_cols = tl.load(col[0] + spot.cols, mask=spot.in_cols, other=0.0)[None, :]
    return MAP.function(numbers, of_rows, of_cols)


@triton.jit
def _through(grad, partial):
    return tl.where(grad == 0.0, 0.0, grad * wide(partial))


@triton.jit
def _store_row_sums(value, sums, height, spot):
    at = sums + spot.tile_col.to(tl.int64) * height + spot.rows
    tl.store(at, tl.sum(value, 1), mask=spot.in_rows)


@triton.jit
def _store_col_sums(value, sums, width, spot):
    at = sums + spot.tile_row.to(tl.int64) * width + spot.cols
    tl.store(at, tl.sum(value, 0), mask=spot.in_cols)
