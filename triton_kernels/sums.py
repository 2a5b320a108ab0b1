"""Partial sums of a tile, in the bounded form (one shift for all pairs, so that one value serves
rows and columns) and in the general form, where each tile has the largest exponent of each row and
column beside its sum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .place import of_cols, of_rows
from .reductions import argument, included


class Outputs(NamedTuple):
    """Vectors of the rows of all tiles, or of their columns; what is not wanted is an empty tuple.

    ``tops``: the shifts of the general form's sums. ``counts``: of arguments above ``thresholds``.
    """

    sums: Any
    tops: Any
    thresholds: Any
    counts: Any
    scores: Any


class Entries(NamedTuple):
    """A tile's entries in them; only those of columns that are ``mirrored`` are written."""

    rows: Any
    cols: Any
    mirrored: Any


@triton.jit
def store_sums(value, place, at, row_sums, col_sums):
    """Sums of a tile's values over its columns, and over its rows."""
    if len(row_sums) == 1:
        tl.store(row_sums[0] + at.rows, tl.sum(value, 1), mask=place.rows < place.row_end)
    if len(col_sums) == 1:
        tl.store(col_sums[0] + at.cols, tl.sum(value, 0), mask=at.mirrored)


@triton.jit
def store_map_sums(
    dots, vectors, shift, place, at, rows, cols, FORMS: tl.constexpr, R: tl.constexpr
):
    """Sums of a reduction's map."""
    FORM: tl.constexpr = FORMS[R]
    mask = included(place, FORM)
    x = argument(dots, vectors, shift, place, FORM)
    store_sums(tl.where(mask, FORM.map(x), 0.0), place, at, rows.sums, cols.sums)


@triton.jit
def store_tops_and_sums(dots, vectors, place, at, rows, cols, FORMS: tl.constexpr, R: tl.constexpr):
    """The largest exponents of a tile's rows and columns, and sums of powers above them."""
    FORM: tl.constexpr = FORMS[R]
    mask = included(place, FORM)
    y = argument(dots, vectors, 0.0, place, FORM)
    # An infinite exponent is NaN, not a vanished or a dominant term.
    y = tl.where(mask, y + (y - y), float("-inf"))
    in_rows = place.rows < place.row_end
    if len(rows.sums) == 1:
        top = tl.max(y, 1)
        base = tl.where(top == float("-inf"), 0.0, top)
        tl.store(rows.tops[0] + at.rows, top, mask=in_rows)
        tl.store(rows.sums[0] + at.rows, tl.sum(tl.exp2(y - base[:, None]), 1), mask=in_rows)
    if len(cols.sums) == 1:
        top = tl.max(y, 0)
        base = tl.where(top == float("-inf"), 0.0, top)
        tl.store(cols.tops[0] + at.cols, top, mask=at.mirrored)
        tl.store(cols.sums[0] + at.cols, tl.sum(tl.exp2(y - base[None, :]), 0), mask=at.mirrored)


@triton.jit
def count_above(dots, vectors, place, at, rows, cols, FORMS: tl.constexpr):
    """How many kept pairs of the first reduction lie above the thresholds of rows and columns."""
    FORM: tl.constexpr = FORMS[0]
    mask = included(place, FORM)
    y = argument(dots, vectors, 0.0, place, FORM)
    if len(rows.counts) == 1:
        above = tl.where(mask & (y > of_rows(rows.thresholds[0], place)), 1, 0)
        tl.store(rows.counts[0] + at.rows, tl.sum(above, 1), mask=place.rows < place.row_end)
    if len(cols.counts) == 1:
        above = tl.where(mask & (y > of_cols(cols.thresholds[0], place)), 1, 0)
        tl.store(cols.counts[0] + at.cols, tl.sum(above, 0), mask=at.mirrored)


@triton.jit
def sum_scores(dots, factors, place, at, rows, cols, FORMS: tl.constexpr):
    """Sums of dot products that the last reduction keeps, as they are or times a factor of the
    row, in fp64: they are compared with a log-sum-exp that they nearly equal.
    """
    LAST: tl.constexpr = FORMS[len(FORMS) - 1]
    value = tl.where(included(place, LAST), dots, 0.0).to(tl.float64)
    if len(factors) == 1:
        value = value * of_rows(factors[0], place).to(tl.float64)
    store_sums(value, place, at, rows.scores, cols.scores)
