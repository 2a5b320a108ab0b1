"""Partial sums of a block: one loop over tiles for log-sum-exps and for pair sums."""

from __future__ import annotations

import triton
import triton.language as tl

from .place import Block, of_cols, of_rows, place_of, store_sums
from .reductions import argument, included
from .sums import store_map_sums, store_tops_and_sums
from .tiles import (
    BOUNDS,
    device_descriptor,
    dot_products,
    keep_dots,
    side_of_diagonal,
    tile_at,
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
    vectors,
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
    FORMS: tl.constexpr,
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
    block = Block(first_row, row_end, first_col, col_end)
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
            dots = dot_products(
                query, key, query_stride, query_step, key_stride, key_step,
                row, col, row_end, col_end, D, DESCRIPTORS, PRECISION, ACC, ROWS, COLS, DEPTH,
            )  # fmt: skip
            place = place_of(row, col, block, data, EVEN, ROWS, COLS)
            own_rows = tile_row * ROWS + tl.arange(0, ROWS)
            own_cols = tile_col * COLS + tl.arange(0, COLS)
            # On the diagonal the columns' sums are the rows' sums of the mirrored tiles.
            mirrored = (place.cols < col_end) & (side > 0)
            if KEEP:
                keep_dots(kept, kept_stride, dots, own_rows, own_cols, place.inside)
            for r in tl.static_range(len(vectors)):
                row_place = (r * col_tiles + tile_col).to(tl.int64) * height + own_rows
                col_place = (r * row_tiles + tile_row).to(tl.int64) * width + own_cols
                if GENERAL:
                    store_tops_and_sums(
                        dots, place, vectors[r], mirrored,
                        row_tops + row_place, row_sums + row_place,
                        col_tops + col_place, col_sums + col_place, FORMS, r, SUMS_ROWS, SUMS_COLS,
                    )  # fmt: skip
                else:
                    shift = tl.load(shifts + r) if CHANNELS else 0.0
                    store_map_sums(
                        dots, place, vectors[r], shift, mirrored,
                        row_sums + row_place, col_sums + col_place, FORMS, r, SUMS_ROWS, SUMS_COLS,
                    )  # fmt: skip
            row_place = tile_col.to(tl.int64) * height + own_rows
            col_place = tile_row.to(tl.int64) * width + own_cols
            if COUNTS_ROWS or COUNTS_COLS:
                count_above(
                    dots, place, vectors[0], thresholds, mirrored,
                    row_counts + row_place, col_counts + col_place, FORMS, COUNTS_ROWS, COUNTS_COLS,
                )  # fmt: skip
            if SCORES:
                sum_scores(
                    dots, place, row_factors, mirrored, row_scores + row_place,
                    col_scores + col_place, FORMS, SUMS_ROWS, SUMS_COLS, SCORES,
                )  # fmt: skip


@triton.jit
def count_above(
    dots,
    place,
    vectors,
    thresholds,
    mirrored,
    row_counts,
    col_counts,
    FORMS: tl.constexpr,
    COUNTS_ROWS: tl.constexpr,
    COUNTS_COLS: tl.constexpr,
):
    """How many kept pairs of the first reduction lie above the thresholds of rows and columns."""
    FORM: tl.constexpr = FORMS[0]
    mask = included(place, FORM)
    y = argument(dots, vectors, 0.0, place, FORM)
    if COUNTS_ROWS:
        above = tl.where(mask & (y > of_rows(thresholds[0], place)), 1, 0)
        tl.store(row_counts, tl.sum(above, 1), mask=place.rows < place.row_end)
    if COUNTS_COLS:
        above = tl.where(mask & (y > of_cols(thresholds[1], place)), 1, 0)
        tl.store(col_counts, tl.sum(above, 0), mask=mirrored)


@triton.jit
def sum_scores(
    dots,
    place,
    row_factors,
    mirrored,
    row_scores,
    col_scores,
    FORMS: tl.constexpr,
    SUMS_ROWS: tl.constexpr,
    SUMS_COLS: tl.constexpr,
    SCORES: tl.constexpr,
):
    """Sums of dot products that the last reduction keeps, as they are or times a factor of the
    row, in fp64: they are compared with a log-sum-exp that they nearly equal.
    """
    FORM: tl.constexpr = FORMS[len(FORMS) - 1]
    value = tl.where(included(place, FORM), dots, 0.0).to(tl.float64)
    if SCORES == 2:
        value = value * of_rows(row_factors, place).to(tl.float64)
    store_sums(value, place, mirrored, row_scores, col_scores, SUMS_ROWS, SUMS_COLS)
