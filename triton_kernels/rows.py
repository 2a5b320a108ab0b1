"""The largest norms of embeddings; of indexed pairs the dot products, or the numbers given."""

from __future__ import annotations

import triton
import triton.language as tl

from .reductions import split_scale
from .tiles import BOUNDS, slab

# Of the normal fp32 numbers.
SMALLEST = tl.constexpr(2.0**-126)


@triton.jit(do_not_specialize=["n", "m"])
def prepare(
    query,
    query_stride,
    query_step,
    n,
    key,
    key_stride,
    key_step,
    m,
    columns,
    dots,
    norms,
    split,
    D: tl.constexpr,
    ACC: tl.constexpr,
    DOTS: tl.constexpr,
    NORMS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """dots[i] = <q_i, k_columns[i]>, 0 where the column is -1; norms[0, program] and
    norms[1, program]: the largest squared norms of BLOCK queries and keys, NaN where one is.

    A column that there is not, which nobody could look for in a trace, makes the loss NaN. And the
    coefficients of a scale that only the device knows.
    """
    split_scale(split)
    rows = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    if DOTS:
        column = tl.load(columns + rows, mask=rows < n, other=-1)
        paired = (column >= 0) & (column < m)
        total = tl.zeros([BLOCK], ACC)
        for depth in range(0, D, DEPTH):
            q = slab(query, query_stride, query_step, rows, paired, depth, D, DEPTH).to(ACC)
            k = slab(key, key_stride, key_step, column, paired, depth, D, DEPTH).to(ACC)
            total += tl.sum(q * k, 1)
        total = tl.where(column < m, total, float("nan"))
        tl.store(dots + rows, total, mask=rows < n)
    if NORMS:
        at = norms + tl.program_id(0)
        tl.store(at, _largest_norm(query, query_stride, query_step, rows, n, D, ACC, DEPTH))
        at += tl.num_programs(0)
        tl.store(at, _largest_norm(key, key_stride, key_step, rows, m, D, ACC, DEPTH))


@triton.jit
def _largest_norm(
    x, stride, step, rows, count, D: tl.constexpr, ACC: tl.constexpr, DEPTH: tl.constexpr
):
    total = tl.zeros(rows.shape, ACC)
    for depth in range(0, D, DEPTH):
        value = slab(x, stride, step, rows, rows < count, depth, D, DEPTH).to(ACC)
        total += tl.sum(value * value, 1)
    # Squares may have vanished.
    total = tl.where(rows < count, total + D * SMALLEST, total)
    # A maximum drops NaN, a sum keeps it.
    return tl.max(total, 0) + tl.sum(total, 0) * 0.0


@triton.jit(do_not_specialize=[*BOUNDS, "m", "count"])
def take_positives(
    given,
    given_stride,
    first_row,
    row_end,
    first_col,
    col_end,
    columns,
    dots,
    m,
    count,
    TRIANGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dots[i] = V at (i, columns[i]) where it lies in the block whose numbers are ``given``; in a
    TRIANGLE, of whose two halves one is given, also as (columns[i], i). As :func:`prepare` has it,
    NaN for a column that there is not.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.load(columns + i, mask=i < count, other=-1)
    _take(given, given_stride, first_row, row_end, first_col, col_end, i, column, dots + i)
    if TRIANGLE:
        _take(given, given_stride, first_row, row_end, first_col, col_end, column, i, dots + i)
    tl.store(dots + i, tl.full([BLOCK], float("nan"), dots.dtype.element_ty), mask=column >= m)


@triton.jit
def _take(given, stride, first_row, row_end, first_col, col_end, row, col, out):
    found = (row >= first_row) & (row < row_end) & (col >= first_col) & (col < col_end)
    at = given + (row - first_row).to(tl.int64) * stride + (col - first_col)
    tl.store(out, tl.load(at, mask=found, other=0.0), mask=found)
