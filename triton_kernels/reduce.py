"""Partial sums of a block: one loop over tiles for log-sum-exps and for pair sums."""

from __future__ import annotations

import triton
import triton.language as tl

from .exponents import affine, included
from .pairs import store_term
from .softmax import store_sums, store_tops_and_sums
from .tiles import (
    BOUNDS,
    device_descriptor,
    dot_products,
    inside_block,
    keep_dots,
    place,
    side_of_diagonal,
)


@triton.jit(do_not_specialize=BOUNDS)
def reduce(
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
    reductions,
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
    row_factors,
    row_scores,
    col_scores,
    kept,
    kept_stride,
    CODE: tl.constexpr,
    D: tl.constexpr,
    CHANNELS: tl.constexpr,
    KEEP: tl.constexpr,
    SUMS_ROWS: tl.constexpr,
    SUMS_COLS: tl.constexpr,
    COUNTS_ROWS: tl.constexpr,
    COUNTS_COLS: tl.constexpr,
    SCORES: tl.constexpr,
    DIAGONAL: tl.constexpr,
    EVEN: tl.constexpr,
    GENERAL: tl.constexpr,
    FLAGGED: tl.constexpr,
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
    """row_sums[r, tile column, i] and col_sums[r, tile row, j]: sums over a tile of a pair sum's
    phi, or of a channel's 2^(y - shift).

    Shifts are the channel's own, ``shifts[r]``, or in the general form the tile's largest
    exponents, ``row_tops`` and ``col_tops``. FLAGGED: both forms are launched, the flag says which
    one works. COUNTS: of the first reduction's arguments above a threshold. SCORES: sums of the
    dot products that the last reduction keeps, times ``row_factors`` where SCORES is 2. KEEP: dot
    products stay in ``kept``. Of a DIAGONAL block the tiles below the diagonal write nothing, those
    on it no columns.
    """
    height = row_end - first_row
    width = col_end - first_col
    row_tiles = tl.cdiv(height, ROWS)
    col_tiles = tl.cdiv(width, COLS)
    if SPECIALIZE:
        query = device_descriptor(query, row_end, D, query_stride, ROWS, DEPTH)
        key = device_descriptor(key, col_end, D, key_stride, COLS, DEPTH)
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
            inside = inside_block(rows, cols, row_end, col_end, EVEN)
            if KEEP:
                keep_dots(kept, kept_stride, dots, own_rows, own_cols, inside)
            for r in tl.static_range(len(reductions)):
                row_place = (r * col_tiles + tile_col).to(tl.int64) * height + own_rows
                col_place = (r * row_tiles + tile_row).to(tl.int64) * width + own_cols
                if GENERAL:
                    store_tops_and_sums(
                        dots, inside, reductions[r], data, CODE, CODE[r],
                        rows, cols, row_end, col_end, mirrored,
                        row_tops + row_place, row_sums + row_place,
                        col_tops + col_place, col_sums + col_place, SUMS_ROWS, SUMS_COLS,
                    )  # fmt: skip
                elif CHANNELS:
                    store_sums(
                        dots, inside, reductions[r], data, tl.load(shifts + r), CODE, CODE[r],
                        rows, cols, row_end, col_end, mirrored,
                        row_sums + row_place, col_sums + col_place, SUMS_ROWS, SUMS_COLS,
                    )  # fmt: skip
                else:
                    store_term(
                        dots, inside, reductions[r], data, CODE, CODE[r],
                        rows, cols, row_end, col_end, mirrored,
                        row_sums + row_place, col_sums + col_place, SUMS_ROWS, SUMS_COLS,
                    )  # fmt: skip
            if COUNTS_ROWS or COUNTS_COLS:
                count_above(
                    dots, inside, reductions[0], data, CODE, rows, cols, row_end, col_end,
                    thresholds, row_counts, col_counts, own_rows, own_cols, tile_row, tile_col,
                    height, width, mirrored, COUNTS_ROWS, COUNTS_COLS,
                )  # fmt: skip
            if SCORES:
                sum_scores(
                    dots, inside, data, CODE, CODE[len(reductions) - 1],
                    rows, cols, row_end, col_end, row_factors,
                    row_scores + tile_col.to(tl.int64) * height + own_rows,
                    col_scores + tile_row.to(tl.int64) * width + own_cols,
                    mirrored, SUMS_ROWS, SUMS_COLS, SCORES,
                )  # fmt: skip


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
def sum_scores(
    dots,
    inside,
    data,
    CODE: tl.constexpr,
    AT: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    row_factors,
    row_scores,
    col_scores,
    mirrored,
    SUMS_ROWS: tl.constexpr,
    SUMS_COLS: tl.constexpr,
    SCORES: tl.constexpr,
):
    """Sums of kept dot products, as they are or times a factor of the row, in fp64: they are
    compared with a log-sum-exp that they nearly equal.
    """
    mask = included(inside, data, CODE, AT, rows, cols, row_end, col_end)
    value = tl.where(mask, dots, 0.0).to(tl.float64)
    if SCORES == 2:
        factor = tl.load(row_factors + rows, mask=rows < row_end, other=0.0)
        value = value * factor.to(tl.float64)[:, None]
    if SUMS_ROWS:
        tl.store(row_scores, tl.sum(value, 1), mask=rows < row_end)
    if SUMS_COLS:
        tl.store(col_scores, tl.sum(value, 0), mask=mirrored)
