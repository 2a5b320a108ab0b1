"""Log-sum-exps: partial sums of a block's channels, and the weights G of their gradient.

Exponents are in bits. In the bounded form a channel has one shift for all pairs, so one power
serves rows and columns; in the general form each tile has the largest exponent of each row and
column beside its sum. Both are launched; ``flag`` says on the device which one works, the other
returns at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .exponents import affine, included
from .tiles import BOUNDS, dot_products, place, side_of_diagonal


@triton.jit(do_not_specialize=BOUNDS)
def reduce_channels(
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
    channels,
    data,
    flag,
    shifts,
    row_sums,
    col_sums,
    row_tops,
    col_tops,
    thresholds,
    row_counts,
    col_counts,
    CODE: tl.constexpr,
    D: tl.constexpr,
    SUMS_ROWS: tl.constexpr,
    SUMS_COLS: tl.constexpr,
    COUNTS_ROWS: tl.constexpr,
    COUNTS_COLS: tl.constexpr,
    DIAGONAL: tl.constexpr,
    GENERAL: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    FLATTEN: tl.constexpr,
    SPECIALIZE: tl.constexpr,
):
    """row_sums[c, tile column, i] and col_sums[c, tile row, j]: sums of 2^(y - shift) over a tile.

    Shifts are the channel's own, ``shifts[c]``, or in the general form the tile's largest
    exponents, ``row_tops`` and ``col_tops``. Counts (``y`` of the first channel above a threshold)
    belong to the bounded form. Of a DIAGONAL block the tiles below
    the diagonal write nothing, those on it no columns.
    """
    if (tl.load(flag) != 0) != GENERAL:
        return
    height = row_end - first_row
    width = col_end - first_col
    row_tiles = tl.cdiv(height, ROWS)
    col_tiles = tl.cdiv(width, COLS)
    for visit in tl.range(
        tl.program_id(0),
        row_tiles * col_tiles,
        tl.num_programs(0),
        flatten=FLATTEN,
        warp_specialize=SPECIALIZE,
    ):
        tile_row, tile_col = place(visit, row_tiles, col_tiles, GROUP)
        row = first_row + tile_row * ROWS
        col = first_col + tile_col * COLS
        side = side_of_diagonal(tile_row * ROWS, tile_col * COLS, ROWS, COLS) if DIAGONAL else 1
        if side >= 0:
            dots = dot_products(
                query, key, query_stride, query_step, key_stride, key_step,
                row, col, row_end, col_end, D, DESCRIPTORS, PRECISION, ACC, ROWS, COLS, DEPTH,
            )  # fmt: skip
            rows = row + tl.arange(0, ROWS)
            cols = col + tl.arange(0, COLS)
            own_rows = tile_row * ROWS + tl.arange(0, ROWS)
            own_cols = tile_col * COLS + tl.arange(0, COLS)
            # On the diagonal the columns' sums are the rows' sums of the mirrored tiles.
            mirrored = (cols < col_end) & (side > 0)
            inside = (rows < row_end)[:, None] & (cols < col_end)[None, :]
            for c in tl.static_range(len(channels)):
                row_place = (c * col_tiles + tile_col).to(tl.int64) * height + own_rows
                col_place = (c * row_tiles + tile_row).to(tl.int64) * width + own_cols
                if GENERAL:
                    store_tops_and_sums(
                        dots, inside, channels[c], data, CODE, CODE[c],
                        rows, cols, row_end, col_end, mirrored,
                        row_tops + row_place, row_sums + row_place,
                        col_tops + col_place, col_sums + col_place, SUMS_ROWS, SUMS_COLS,
                    )  # fmt: skip
                else:
                    store_sums(
                        dots, inside, channels[c], data, tl.load(shifts + c), CODE, CODE[c],
                        rows, cols, row_end, col_end, mirrored,
                        row_sums + row_place, col_sums + col_place, SUMS_ROWS, SUMS_COLS,
                    )  # fmt: skip
            if COUNTS_ROWS or COUNTS_COLS:
                count_above(
                    dots, inside, channels[0], data, CODE, rows, cols, row_end, col_end,
                    thresholds, row_counts, col_counts, own_rows, own_cols, tile_row, tile_col,
                    height, width, mirrored, COUNTS_ROWS, COUNTS_COLS,
                )  # fmt: skip


@triton.jit
def store_sums(
    dots,
    inside,
    vectors,
    data,
    shift,
    CODE: tl.constexpr,
    AT: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    mirrored,
    row_sums,
    col_sums,
    SUMS_ROWS: tl.constexpr,
    SUMS_COLS: tl.constexpr,
):
    """Sums of 2^(y - shift) over a tile's columns and rows; one power serves both."""
    mask = included(inside, data, CODE, AT, rows, cols, row_end, col_end)
    y = affine(dots, vectors, data, shift, CODE, AT, rows, cols, row_end, col_end)
    power = tl.where(mask, tl.exp2(y), 0.0)
    if SUMS_ROWS:
        tl.store(row_sums, tl.sum(power, 1), mask=rows < row_end)
    if SUMS_COLS:
        tl.store(col_sums, tl.sum(power, 0), mask=mirrored)


@triton.jit
def store_tops_and_sums(
    dots,
    inside,
    vectors,
    data,
    CODE: tl.constexpr,
    AT: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    mirrored,
    row_tops,
    row_sums,
    col_tops,
    col_sums,
    SUMS_ROWS: tl.constexpr,
    SUMS_COLS: tl.constexpr,
):
    """The largest exponents of a tile's rows and columns, and sums of powers above them."""
    mask = included(inside, data, CODE, AT, rows, cols, row_end, col_end)
    y = affine(dots, vectors, data, 0.0, CODE, AT, rows, cols, row_end, col_end)
    # An infinite exponent is NaN, not a vanished or a dominant term.
    y = tl.where(mask, y + (y - y), float("-inf"))
    if SUMS_ROWS:
        top = tl.max(y, 1)
        base = tl.where(top == float("-inf"), 0.0, top)
        tl.store(row_tops, top, mask=rows < row_end)
        tl.store(row_sums, tl.sum(tl.exp2(y - base[:, None]), 1), mask=rows < row_end)
    if SUMS_COLS:
        top = tl.max(y, 0)
        base = tl.where(top == float("-inf"), 0.0, top)
        tl.store(col_tops, top, mask=mirrored)
        tl.store(col_sums, tl.sum(tl.exp2(y - base[None, :]), 0), mask=mirrored)


@triton.jit
def count_above(
    dots,
    inside,
    vectors,
    data,
    CODE: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    thresholds,
    row_counts,
    col_counts,
    own_rows,
    own_cols,
    tile_row,
    tile_col,
    height,
    width,
    mirrored,
    COUNTS_ROWS: tl.constexpr,
    COUNTS_COLS: tl.constexpr,
):
    """How many kept pairs of the first reduction lie above the thresholds of rows and columns."""
    AT: tl.constexpr = CODE[0]
    mask = included(inside, data, CODE, AT, rows, cols, row_end, col_end)
    y = affine(dots, vectors, data, 0.0, CODE, AT, rows, cols, row_end, col_end)
    in_rows = rows < row_end
    in_cols = cols < col_end
    if COUNTS_ROWS:
        limit = tl.load(thresholds[0] + rows, mask=in_rows, other=0.0)
        above = tl.where(mask & (y > limit[:, None]), 1, 0)
        at = tile_col.to(tl.int64) * height + own_rows
        tl.store(row_counts + at, tl.sum(above, 1), mask=in_rows)
    if COUNTS_COLS:
        limit = tl.load(thresholds[1] + cols, mask=in_cols, other=0.0)
        above = tl.where(mask & (y > limit[None, :]), 1, 0)
        at = tile_row.to(tl.int64) * width + own_cols
        tl.store(col_counts + at, tl.sum(above, 0), mask=mirrored)


@triton.jit
def channel_weights(
    dots,
    inside,
    channels,
    gradients,
    data,
    shifts,
    CODE: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    SIDES: tl.constexpr,
    GENERAL: tl.constexpr,
):
    """G of a tile: sum over channels of 2^(y - shift_i) a_i + 2^(y - shift_j) b_j.

    ``gradients``: for each channel the shifts of rows, a, the shifts of columns, b.
    """
    weights = tl.zeros(dots.shape, dots.dtype)
    for c in tl.static_range(len(channels)):
        if SIDES[2 * c] or SIDES[2 * c + 1]:
            shift = tl.load(shifts + c) if not GENERAL else 0.0
            weights += channel_weight(
                dots, inside, channels[c], gradients[c], data, shift, CODE, CODE[c],
                rows, cols, row_end, col_end, SIDES[2 * c], SIDES[2 * c + 1], GENERAL,
            )  # fmt: skip
    return weights


@triton.jit
def channel_weight(
    dots,
    inside,
    vectors,
    own,
    data,
    shift,
    CODE: tl.constexpr,
    AT: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    FROM_ROWS: tl.constexpr,
    FROM_COLS: tl.constexpr,
    GENERAL: tl.constexpr,
):
    """One channel's share of G."""
    mask = included(inside, data, CODE, AT, rows, cols, row_end, col_end)
    y = affine(dots, vectors, data, shift, CODE, AT, rows, cols, row_end, col_end)
    if GENERAL:
        weight = tl.zeros(dots.shape, dots.dtype)
        if FROM_ROWS:
            a = tl.load(own[1] + rows, mask=rows < row_end, other=0.0)[:, None]
            top = tl.load(own[0] + rows, mask=rows < row_end, other=0.0)[:, None]
            weight += tl.where(mask & (a != 0), tl.exp2(y - top) * a, 0.0)
        if FROM_COLS:
            b = tl.load(own[3] + cols, mask=cols < col_end, other=0.0)[None, :]
            top = tl.load(own[2] + cols, mask=cols < col_end, other=0.0)[None, :]
            weight += tl.where(mask & (b != 0), tl.exp2(y - top) * b, 0.0)
    else:
        factor = side_factors(own[1], own[3], rows, cols, row_end, col_end, FROM_ROWS, FROM_COLS)
        weight = tl.where(mask, tl.exp2(y) * factor, 0.0)
    return weight


@triton.jit
def side_factors(
    of_rows,
    of_cols,
    rows,
    cols,
    row_end,
    col_end,
    FROM_ROWS: tl.constexpr,
    FROM_COLS: tl.constexpr,
):
    """a_i + b_j of those that there are."""
    if FROM_ROWS and FROM_COLS:
        a = tl.load(of_rows + rows, mask=rows < row_end, other=0.0)[:, None]
        b = tl.load(of_cols + cols, mask=cols < col_end, other=0.0)[None, :]
        factor = a + b
    elif FROM_ROWS:
        factor = tl.load(of_rows + rows, mask=rows < row_end, other=0.0)[:, None]
    else:
        factor = tl.load(of_cols + cols, mask=cols < col_end, other=0.0)[None, :]
    return factor
