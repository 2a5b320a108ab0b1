"""A strip of the weights G = dL/dS, and the indexed positives put into it."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .merge import sum_of_products
from .place import Block, place_of
from .reductions import included
from .tile_weights import side_factors, tile_weights, weights_and_sums
from .tiles import (
    BOUNDS,
    device_descriptor,
    dot_products,
    kept_dots,
    side_of_diagonal,
    tile_at,
)

# Of the finite numbers of either dtype.
LARGEST = tl.constexpr(3.4028234663852886e38)
LARGEST_DOUBLE = tl.constexpr(1.7976931348623157e308)


class Numbers(NamedTuple):
    """What a tile's weights are made of: a kernel's arguments of these names."""

    vectors: Any
    factors: Any
    lines: Any
    shifts: Any
    data: Any


class Strip(NamedTuple):
    """Where they go: the strip, its mirror image, their stride; the sums of products, those of
    maps, and how many parts of tiles a row has sums of.
    """

    out: Any
    mirror: Any
    stride: Any
    products: Any
    sums: Any
    parts: Any


@triton.jit(do_not_specialize=BOUNDS)
def weigh(
    query,
    key,
    query_stride,
    query_step,
    key_stride,
    key_step,
    first_row,
    row_end,
    first_col,
    col_end,
    vectors,
    factors,
    lines,
    data,
    flag,
    shifts,
    out,
    mirror,
    out_stride,
    row_products,
    row_sums,
    kept,
    kept_stride,
    FORMS: tl.constexpr,
    D: tl.constexpr,
    CHANNELS: tl.constexpr,
    KEPT: tl.constexpr,
    PRODUCTS: tl.constexpr,
    SUMS: tl.constexpr,
    DIAGONAL: tl.constexpr,
    EVEN: tl.constexpr,
    GENERAL: tl.constexpr,
    FLAGGED: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,
    GROUP: tl.constexpr,
    FLATTEN: tl.constexpr,
    SPECIALIZE: tl.constexpr,
):
    """out[i, j] = unit G_ij of a block, as OUT; ``out`` and ``mirror`` (in tiles of COLS x ROWS)
    are descriptors, of one of the PARTS of a tile, or pointers to it.

    The unit, a power of two that fits G into half precision, is in the coefficients already.
    ``lines``: what kept pairs of the last channel get beside its powers, of rows and of columns.
    KEPT: the dot products are read from ``kept``, where ``reduce`` left them. PRODUCTS: also
    row_products[part, i], the sums of unit G_ij <q_i, k_j> over each of the PARTS of a tile.
    SUMS: of pair sums also row_sums[r, part, i], the sums of their maps. Of a DIAGONAL block the
    tiles above the diagonal are written to their mirror images too.
    """
    row_tiles = tl.cdiv(row_end - first_row, ROWS)
    col_tiles = tl.cdiv(col_end - first_col, COLS)
    if SPECIALIZE:
        query = device_descriptor(query, row_end, D, query_stride, ROWS, DEPTH)
        key = device_descriptor(key, col_end, D, key_stride, COLS, DEPTH)
        height, width = row_end - first_row, col_end - first_col
        out = device_descriptor(out, height, width, out_stride, ROWS, COLS // PARTS)
        if DIAGONAL:
            mirror = device_descriptor(mirror, height, width, out_stride, COLS // PARTS, ROWS)
    block = Block(first_row, row_end, first_col, col_end)
    numbers = Numbers(vectors, factors, lines, shifts, data)
    strip = Strip(out, mirror, out_stride, row_products, row_sums, col_tiles * PARTS)
    visits = row_tiles * col_tiles
    if FLAGGED:
        # No early return: warp specialisation takes no branches around its loop.
        visits = tl.where((tl.load(flag) != 0) == GENERAL, visits, 0)
    for visit in tl.range(
        tl.program_id(0),
        visits,
        tl.num_programs(0),
        flatten=FLATTEN,
        warp_specialize=SPECIALIZE,
    ):
        tile_row, tile_col = tile_at(visit, row_tiles, col_tiles, GROUP)
        row = first_row + tile_row * ROWS
        col = first_col + tile_col * COLS
        side = side_of_diagonal(tile_row * ROWS, tile_col * COLS, ROWS, COLS) if DIAGONAL else 1
        if side >= 0:
            if KEPT:
                place = place_of(row, col, block, data, EVEN, ROWS, COLS)
                own_rows, own_cols = place.rows - first_row, place.cols - first_col
                dots = kept_dots(kept, kept_stride, own_rows, own_cols, place.inside)
            else:
                dots = dot_products(
                    query, key, query_stride, query_step, key_stride, key_step,
                    row, col, row_end, col_end, D, DESCRIPTORS, PRECISION, ACC, ROWS, COLS, DEPTH,
                )  # fmt: skip
            write_parts(
                dots, row, col, tile_col, side, block, numbers, strip, FORMS, CHANNELS, PRODUCTS,
                SUMS, DIAGONAL, EVEN, GENERAL, DESCRIPTORS, OUT, ROWS, COLS, PARTS,
            )  # fmt: skip


@triton.jit
def write_parts(
    dots,
    row,
    col,
    part,
    side,
    block,
    numbers,
    strip,
    FORMS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRODUCTS: tl.constexpr,
    SUMS: tl.constexpr,
    DIAGONAL: tl.constexpr,
    EVEN: tl.constexpr,
    GENERAL: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The weights of a tile, one of its PARTS after the other: dot products and weights of a wide
    tile do not fit in registers at once.
    """
    if PARTS == 1:
        write_weights(
            dots, row, col, part, side, block, numbers, strip, FORMS, CHANNELS, PRODUCTS, SUMS,
            DIAGONAL, EVEN, GENERAL, DESCRIPTORS, OUT, ROWS, COLS,
        )  # fmt: skip
    else:
        left, right = tl.split(tl.permute(tl.reshape(dots, [ROWS, 2, COLS // 2]), [0, 2, 1]))
        write_parts(
            left, row, col, 2 * part, side, block, numbers, strip, FORMS, CHANNELS, PRODUCTS,
            SUMS, DIAGONAL, EVEN, GENERAL, DESCRIPTORS, OUT, ROWS, COLS // 2, PARTS // 2,
        )  # fmt: skip
        write_parts(
            right, row, col + COLS // 2, 2 * part + 1, side, block, numbers, strip, FORMS, CHANNELS,
            PRODUCTS, SUMS, DIAGONAL, EVEN, GENERAL, DESCRIPTORS, OUT, ROWS, COLS // 2, PARTS // 2,
        )  # fmt: skip


@triton.jit
def write_weights(
    dots,
    row,
    col,
    part,
    side,
    block,
    numbers,
    strip,
    FORMS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRODUCTS: tl.constexpr,
    SUMS: tl.constexpr,
    DIAGONAL: tl.constexpr,
    EVEN: tl.constexpr,
    GENERAL: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """From the dot products of a tile at (row, col) to its weights in memory."""
    place = place_of(row, col, block, numbers.data, EVEN, ROWS, COLS)
    if SUMS:
        g = weights_and_sums(
            dots, place, numbers.vectors, numbers.factors, strip, part, block.first_row, FORMS
        )
    else:
        g = tile_weights(
            dots, place, numbers.vectors, numbers.factors, numbers.shifts, FORMS, CHANNELS, GENERAL
        )
    lines = numbers.lines
    if len(lines.rows) + len(lines.cols) > 0:
        # The same for all kept pairs of a row, or of a column: what Jensen's gap adds.
        LAST: tl.constexpr = FORMS[len(FORMS) - 1]
        g += tl.where(included(place, LAST), side_factors(lines, place), 0.0)
    if PRODUCTS:
        # 0 times a dot product that is no number stays 0. Clamped by two instructions; whether G is
        # 0 took five, and registers for the answers.
        product = g * _finite(dots)
        # In the square on the diagonal each pair stands twice, and one with itself once.
        total = tl.sum(product, 1) * tl.where(side == 0, 0.5, 1.0)
        at = tl.cast(part, tl.int64) * (block.row_end - block.first_row)
        at += place.rows - block.first_row
        tl.store(strip.products + at, total, mask=place.rows < block.row_end)
    weights = g.to(OUT)
    if DESCRIPTORS:
        strip.out.store([row - block.first_row, col - block.first_col], weights)
    else:
        # Not before: what would be held until here spills, on sm_80.
        down = (place.rows - block.first_row).to(tl.int64)
        across = (place.cols - block.first_col).to(tl.int64)
        places = strip.out + down[:, None] * strip.stride + across[None, :]
        tl.store(places, weights, mask=place.inside)
    if DIAGONAL:  # noqa: SIM102
        # Unlike DIAGONAL, known on the device only.
        if side > 0:
            if DESCRIPTORS:
                strip.mirror.store([col - block.first_col, row - block.first_row], weights.T)
            else:
                down = (place.rows - block.first_row).to(tl.int64)
                across = (place.cols - block.first_col).to(tl.int64)
                places = strip.mirror + across[None, :] * strip.stride + down[:, None]
                tl.store(places, weights, mask=place.inside)


@triton.jit
def _finite(x):
    """x, but a finite number for what is none."""
    LIMIT: tl.constexpr = LARGEST_DOUBLE if x.dtype == tl.float64 else LARGEST
    return tl.minimum(tl.maximum(x, -LIMIT), LIMIT)


@triton.jit(do_not_specialize=[*BOUNDS, "tiles", "general_tiles", "count"])
def put_positives(
    out,
    out_stride,
    first_row,
    row_end,
    first_col,
    col_end,
    columns,
    grad,
    of_loss,
    dots,
    unit,
    products,
    partial,
    tiles,
    general_tiles,
    count,
    UNIT: tl.constexpr,
    TRIANGLE: tl.constexpr,
    PRODUCTS: tl.constexpr,
    GENERAL: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add unit grad[i] to G at (i, columns[i]); to products[i] grad[i] dots[i], and of the block's
    rows the products of its tiles. SCALED: the gradients are first multiplied by that of the loss.

    In a TRIANGLE a pair may lie in the block as (columns[i], i); on its DIAGONAL it lies there both
    ways. Where two rows are each other's positive, each adds both gradients to its own element.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.load(columns + i, mask=i < count, other=-1)
    paired = column >= 0
    factor = tl.load(of_loss) if SCALED else 1.0
    own = tl.load(grad + i, mask=paired, other=0.0) * factor
    scale = tl.load(unit) if UNIT else 1.0
    straight = paired & (i >= first_row) & (i < row_end)
    straight = straight & (column >= first_col) & (column < col_end)
    value = own
    found = straight
    if TRIANGLE:
        paired = paired & (column < count)
        mutual = paired & (tl.load(columns + column, mask=paired, other=-1) == i)
        value = own + tl.load(grad + column, mask=mutual, other=0.0) * factor
        turned = paired & (column >= first_row) & (column < row_end)
        turned = turned & (i >= first_col) & (i < col_end)
        found = straight | turned
        # A mutual pair off the diagonal blocks is written by the row that lies straight.
        turned = turned & (mutual == 0)
        at = out + (column - first_row).to(tl.int64) * out_stride + (i - first_col)
        tl.store(at, (tl.load(at, mask=turned, other=0.0) + own * scale), mask=turned)
    at = out + (i - first_row).to(tl.int64) * out_stride + (column - first_col)
    tl.store(at, (tl.load(at, mask=straight, other=0.0) + value * scale), mask=straight)
    if PRODUCTS:
        more = own.to(tl.float64) * tl.load(dots + i, mask=found, other=0.0).to(tl.float64)
        more = tl.where(found, more, 0.0)
        inside = (i >= first_row) & (i < row_end)
        length = row_end - first_row
        more += sum_of_products(
            partial, tiles, general_tiles, i - first_row, length, inside, unit, GENERAL, UNIT
        )
        reached = found | inside
        tl.store(products + i, tl.load(products + i, mask=reached, other=0.0) + more, mask=reached)
