"""The weights G of a tile from its dot products, before they are stored."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .place import of_cols, of_rows
from .reductions import argument, included, map_and_slope


class Factors(NamedTuple):
    """What one reduction's slopes are multiplied by: a vector of rows, of columns, or an empty
    tuple. In the general form of a channel each has its shifts beside it.
    """

    rows: Any
    row_shifts: Any
    cols: Any
    col_shifts: Any


@triton.jit
def tile_weights(
    dots,
    place,
    vectors,
    factors,
    shifts,
    FORMS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GENERAL: tl.constexpr,
):
    """G of a tile: the sum over reductions of slope(x) (a_i + b_j), of channels in the general form
    of 2^(y - shift_i) a_i + 2^(y - shift_j) b_j.
    """
    weights = tl.zeros(dots.shape, dots.dtype)
    for r in tl.static_range(len(factors)):
        if len(factors[r].rows) + len(factors[r].cols) > 0:
            if GENERAL:
                weights += general_weight(dots, place, vectors[r], factors[r], FORMS, r)
            else:
                shift = tl.load(shifts + r) if CHANNELS else 0.0
                weights += bounded_weight(dots, place, vectors[r], factors[r], shift, FORMS, r)
    return weights


@triton.jit
def bounded_weight(dots, place, vectors, factors, shift, FORMS: tl.constexpr, R: tl.constexpr):
    """One reduction's share of G: one slope serves rows and columns."""
    FORM: tl.constexpr = FORMS[R]
    mask = included(place, FORM)
    x = argument(dots, vectors, shift, place, FORM)
    factor = side_factors(factors, place)
    return tl.where(mask, FORM.slope(x) * factor, 0.0)


@triton.jit
def weights_and_sums(dots, place, vectors, factors, strip, part, first_row, FORMS: tl.constexpr):
    """G of a tile of pair sums, and the sums of their maps over its columns."""
    weights = tl.zeros(dots.shape, dots.dtype)
    for r in tl.static_range(len(factors)):
        at = (r * strip.parts + part).to(tl.int64) * (place.row_end - first_row)
        sums = strip.sums + at + (place.rows - first_row)
        weights += weight_and_sum(dots, place, vectors[r], factors[r], sums, FORMS, r)
    return weights


@triton.jit
def weight_and_sum(dots, place, vectors, factors, sums, FORMS: tl.constexpr, R: tl.constexpr):
    """One pair sum's share of G, and its sums, from one argument."""
    FORM: tl.constexpr = FORMS[R]
    mask = included(place, FORM)
    x = argument(dots, vectors, 0.0, place, FORM)
    WEIGHED: tl.constexpr = len(factors.rows) + len(factors.cols) > 0
    # Before the power: loaded after it they cost sm_90 18 registers.
    factor = side_factors(factors, place) if WEIGHED else 0.0
    value, rate = map_and_slope(x, FORM)
    tl.store(sums, tl.sum(tl.where(mask, value, 0.0), 1), mask=place.rows < place.row_end)
    return tl.where(mask, rate * factor, 0.0) if WEIGHED else tl.zeros(dots.shape, dots.dtype)


@triton.jit
def general_weight(dots, place, vectors, factors, FORMS: tl.constexpr, R: tl.constexpr):
    """One channel's share of G, where each row and column has its shift."""
    FORM: tl.constexpr = FORMS[R]
    mask = included(place, FORM)
    y = argument(dots, vectors, 0.0, place, FORM)
    weight = tl.zeros(dots.shape, dots.dtype)
    if len(factors.rows) == 1:
        a = of_rows(factors.rows[0], place)
        top = of_rows(factors.row_shifts[0], place)
        weight += tl.where(mask & (a != 0), tl.exp2(y - top) * a, 0.0)
    if len(factors.cols) == 1:
        b = of_cols(factors.cols[0], place)
        top = of_cols(factors.col_shifts[0], place)
        weight += tl.where(mask & (b != 0), tl.exp2(y - top) * b, 0.0)
    return weight


@triton.jit
def side_factors(factors, place):
    """a_i + b_j of those that there are."""
    if len(factors.rows) == 0:
        factor = of_cols(factors.cols[0], place)
    elif len(factors.cols) == 0:
        factor = of_rows(factors.rows[0], place)
    else:
        factor = of_rows(factors.rows[0], place) + of_cols(factors.cols[0], place)
    return factor
