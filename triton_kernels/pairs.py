"""Pair sums: partial sums of a block's terms, and the weights G of their gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from .exponents import PHI, affine, included, phi, phi_and_slope, slope
from .softmax import side_factors


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
    row_sums,
    sums_step,
    SIDES: tl.constexpr,
    SUMS: tl.constexpr,
):
    """G of a tile: sum over terms of phi'(x) (a_i + b_j); ``gradients``: a and b of each term.

    SUMS: sums of phi over the tile's columns too, of each term ``sums_step`` after the one before.
    """
    weights = tl.zeros(dots.shape, dots.dtype)
    for t in tl.static_range(len(terms)):
        if SUMS:
            weights += weight_and_sum(
                dots, inside, terms[t], gradients[t], data, CODE, CODE[t],
                rows, cols, row_end, col_end, row_sums + t * sums_step,
                SIDES[2 * t], SIDES[2 * t + 1],
            )  # fmt: skip
        elif SIDES[2 * t] or SIDES[2 * t + 1]:
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


@triton.jit
def weight_and_sum(
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
    row_sums,
    FROM_ROWS: tl.constexpr,
    FROM_COLS: tl.constexpr,
):
    """One term's share of G, and its sums over the tile's columns, from one argument."""
    mask = included(inside, data, CODE, AT, rows, cols, row_end, col_end)
    x = affine(dots, vectors, data, 0.0, CODE, AT, rows, cols, row_end, col_end)
    value, rate = phi_and_slope(x, CODE[AT + PHI])
    tl.store(row_sums, tl.sum(tl.where(mask, value, 0.0), 1), mask=rows < row_end)
    if FROM_ROWS or FROM_COLS:
        factor = side_factors(own[0], own[1], rows, cols, row_end, col_end, FROM_ROWS, FROM_COLS)
        weight = tl.where(mask, rate * factor, 0.0)
    else:
        weight = tl.zeros(dots.shape, dots.dtype)
    return weight
