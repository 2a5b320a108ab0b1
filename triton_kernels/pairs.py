"""Pair sums: partial sums of a block's terms, and the weights G of their gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from .exponents import PHI, affine, included, phi, slope
from .softmax import count_above, side_factors
from .tiles import BOUNDS, dot_products, place, side_of_diagonal


@triton.jit(do_not_specialize=BOUNDS)
def reduce_terms(
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
    terms,
    data,
    row_sums,
    col_sums,
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
    """row_sums[t, tile column, i] and col_sums[t, tile row, j]: sums of phi over a tile."""
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
            mirrored = (cols < col_end) & (side > 0)
            inside = (rows < row_end)[:, None] & (cols < col_end)[None, :]
            for t in tl.static_range(len(terms)):
                row_place = (t * col_tiles + tile_col).to(tl.int64) * height + own_rows
                col_place = (t * row_tiles + tile_row).to(tl.int64) * width + own_cols
                store_term(
                    dots, inside, terms[t], data, CODE, CODE[t],
                    rows, cols, row_end, col_end, mirrored,
                    row_sums + row_place, col_sums + col_place, SUMS_ROWS, SUMS_COLS,
                )  # fmt: skip
            if COUNTS_ROWS or COUNTS_COLS:
                count_above(
                    dots, inside, terms[0], data, CODE, rows, cols, row_end, col_end,
                    thresholds, row_counts, col_counts, own_rows, own_cols, tile_row, tile_col,
                    height, width, mirrored, COUNTS_ROWS, COUNTS_COLS,
                )  # fmt: skip


@triton.jit
def store_term(
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
    row_sums,
    col_sums,
    SUMS_ROWS: tl.constexpr,
    SUMS_COLS: tl.constexpr,
):
    """Sums of phi over a tile's columns and rows."""
    mask = included(inside, data, CODE, AT, rows, cols, row_end, col_end)
    x = affine(dots, vectors, data, 0.0, CODE, AT, rows, cols, row_end, col_end)
    value = tl.where(mask, phi(x, CODE[AT + PHI]), 0.0)
    if SUMS_ROWS:
        tl.store(row_sums, tl.sum(value, 1), mask=rows < row_end)
    if SUMS_COLS:
        tl.store(col_sums, tl.sum(value, 0), mask=mirrored)


@triton.jit
def term_weights(
    dots,
    inside,
    terms,
    gradients,
    data,
    CODE: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    SIDES: tl.constexpr,
):
    """G of a tile: sum over terms of phi'(x) (a_i + b_j); ``gradients``: a and b of each term."""
    weights = tl.zeros(dots.shape, dots.dtype)
    for t in tl.static_range(len(terms)):
        if SIDES[2 * t] or SIDES[2 * t + 1]:
            weights += term_weight(
                dots, inside, terms[t], gradients[t], data, CODE, CODE[t],
                rows, cols, row_end, col_end, SIDES[2 * t], SIDES[2 * t + 1],
            )  # fmt: skip
    return weights


@triton.jit
def term_weight(
    dots,
    inside,
    vectors,
    own,
    data,
    CODE: tl.constexpr,
    AT: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    FROM_ROWS: tl.constexpr,
    FROM_COLS: tl.constexpr,
):
    """One term's share of G."""
    mask = included(inside, data, CODE, AT, rows, cols, row_end, col_end)
    x = affine(dots, vectors, data, 0.0, CODE, AT, rows, cols, row_end, col_end)
    factor = side_factors(own[0], own[1], rows, cols, row_end, col_end, FROM_ROWS, FROM_COLS)
    return tl.where(mask, slope(x, CODE[AT + PHI]) * factor, 0.0)
