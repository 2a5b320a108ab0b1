"""The O(N D) pass over the embeddings: the largest norms, and the dot products of indexed pairs."""

from __future__ import annotations

import triton
import triton.language as tl

from .reductions import split_scale
from .tiles import slab

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
