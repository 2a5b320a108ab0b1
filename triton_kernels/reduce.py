"""Partial sums of a block: one loop over tiles for log-sum-exps and for pair sums."""

from __future__ import annotations

import triton
import triton.language as tl

from .place import Block, place_of
from .sums import Entries, count_above, store_map_sums, store_tops_and_sums, sum_scores
from .tiles import (
    BOUNDS,
    device_descriptor,
    dot_products,
    keep_dots,
    kept_dots,
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
    kept,
    kept_stride,
    rows,
    cols,
    score_factors,
    FORMS: tl.constexpr,
    D: tl.constexpr,
    CHANNELS: tl.constexpr,
    KEEP: tl.constexpr,
    GIVEN: tl.constexpr,
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
    """rows.sums[r, tile column, i] and cols.sums[r, tile row, j]: sums over a tile of a reduction's
    map, or of a channel's powers above the tile's largest exponents, their ``tops``, in the general
    form. Elsewhere a channel's arguments are above its own shift, ``shifts[r]``.

    FLAGGED: both forms are launched, the flag says which one works. Beside the sums, as wanted:
    ``counts``, of the first reduction; ``scores``, sums of the dot products that the last one
    keeps, times ``score_factors`` of the rows if there are any. KEEP: dot products stay in
    ``kept``; GIVEN: they are there already. Of a DIAGONAL block the tiles below the diagonal write
    nothing, those on it no columns.
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
            if not GIVEN:
                dots = dot_products(
                    query, key, query_stride, query_step, key_stride, key_step,
                    row, col, row_end, col_end, D, DESCRIPTORS, PRECISION, ACC, ROWS, COLS, DEPTH,
                )  # fmt: skip
            place = place_of(row, col, block, data, EVEN, ROWS, COLS)
            own_rows = tile_row * ROWS + tl.arange(0, ROWS)
            own_cols = tile_col * COLS + tl.arange(0, COLS)
            if GIVEN:
                dots = kept_dots(kept, kept_stride, own_rows, own_cols, place.inside)
            # On the diagonal the columns' sums are the rows' sums of the mirrored tiles.
            mirrored = (place.cols < col_end) & (side > 0)
            if KEEP:
                keep_dots(kept, kept_stride, dots, own_rows, own_cols, place.inside)
            for r in tl.static_range(len(vectors)):
                at = Entries(
                    (r * col_tiles + tile_col).to(tl.int64) * height + own_rows,
                    (r * row_tiles + tile_row).to(tl.int64) * width + own_cols,
                    mirrored,
                )
                if GENERAL:
                    store_tops_and_sums(dots, vectors[r], place, at, rows, cols, FORMS, r)
                else:
                    shift = tl.load(shifts + r) if CHANNELS else 0.0
                    store_map_sums(dots, vectors[r], shift, place, at, rows, cols, FORMS, r)
            first = Entries(
                tile_col.to(tl.int64) * height + own_rows,
                tile_row.to(tl.int64) * width + own_cols,
                mirrored,
            )
            if len(rows.counts) + len(cols.counts) > 0:
                count_above(dots, vectors[0], place, first, rows, cols, FORMS)
            if len(rows.scores) + len(cols.scores) > 0:
                sum_scores(dots, score_factors, place, first, rows, cols, FORMS)
