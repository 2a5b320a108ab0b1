"""Partial sums of a tile, in the bounded form (one shift for all pairs, so that one value serves
rows and columns) and in the general form, where each tile has the largest exponent of each row and
column beside its sum.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .place import store_sums
from .reductions import argument, included


@triton.jit
def store_map_sums(
    dots,
    place,
    vectors,
    shift,
    mirrored,
    row_sums,
    col_sums,
    FORMS: tl.constexpr,
    R: tl.constexpr,
    SUMS_ROWS: tl.constexpr,
    SUMS_COLS: tl.constexpr,
):
    """Sums of the reduction's map over a tile's columns and rows; one value serves both."""
    FORM: tl.constexpr = FORMS[R]
    mask = included(place, FORM)
    x = argument(dots, vectors, shift, place, FORM)
    value = tl.where(mask, FORM.map(x), 0.0)
    store_sums(value, place, mirrored, row_sums, col_sums, SUMS_ROWS, SUMS_COLS)


@triton.jit
def store_tops_and_sums(
    dots,
    place,
    vectors,
    mirrored,
    row_tops,
    row_sums,
    col_tops,
    col_sums,
    FORMS: tl.constexpr,
    R: tl.constexpr,
    SUMS_ROWS: tl.constexpr,
    SUMS_COLS: tl.constexpr,
):
    """The largest exponents of a tile's rows and columns, and sums of powers above them."""
    FORM: tl.constexpr = FORMS[R]
    mask = included(place, FORM)
    y = argument(dots, vectors, 0.0, place, FORM)
    # An infinite exponent is NaN, not a vanished or a dominant term.
    y = tl.where(mask, y + (y - y), float("-inf"))
    in_rows = place.rows < place.row_end
    if SUMS_ROWS:
        top = tl.max(y, 1)
        base = tl.where(top == float("-inf"), 0.0, top)
        tl.store(row_tops, top, mask=in_rows)
        tl.store(row_sums, tl.sum(tl.exp2(y - base[:, None]), 1), mask=in_rows)
    if SUMS_COLS:
        top = tl.max(y, 0)
        base = tl.where(top == float("-inf"), 0.0, top)
        tl.store(col_tops, top, mask=mirrored)
        tl.store(col_sums, tl.sum(tl.exp2(y - base[None, :]), 0), mask=mirrored)
