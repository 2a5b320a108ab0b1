"""O(N D) passes over the embeddings: the largest norm, and the dot products of indexed pairs."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count"])
def square_norms(
    x,
    stride,
    step,
    count,
    out,
    D: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out[program] = largest squared norm of BLOCK rows; NaN where one is."""
    rows = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    total = tl.zeros([BLOCK], ACC)
    for depth in range(0, D, DEPTH):
        features = depth + tl.arange(0, DEPTH)
        inside = (rows < count)[:, None] & (features < D)[None, :]
        places = x + rows[:, None] * stride + features.to(tl.int64)[None, :] * step
        value = tl.load(places, mask=inside, other=0.0).to(ACC)
        total += tl.sum(value * value, 1)
    # A maximum drops NaN, a sum keeps it.
    tl.store(out + tl.program_id(0), tl.max(total, 0) + (tl.sum(total, 0) * 0.0))


@triton.jit(do_not_specialize=["count"])
def gather_dots(
    query,
    query_stride,
    query_step,
    key,
    key_stride,
    key_step,
    columns,
    count,
    out,
    D: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out[i] = <q_i, k_columns[i]>, 0 where the column is -1."""
    rows = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    column = tl.load(columns + rows, mask=rows < count, other=-1)
    own = (rows < count) & (column >= 0)
    total = tl.zeros([BLOCK], ACC)
    for depth in range(0, D, DEPTH):
        features = (depth + tl.arange(0, DEPTH)).to(tl.int64)
        inside = own[:, None] & (features < D)[None, :]
        q = tl.load(
            query + rows[:, None] * query_stride + features[None, :] * query_step,
            mask=inside,
            other=0.0,
        )
        k = tl.load(
            key + column[:, None] * key_stride + features[None, :] * key_step,
            mask=inside,
            other=0.0,
        )
        total += tl.sum(q.to(ACC) * k.to(ACC), 1)
    tl.store(out + rows, total, mask=rows < count)
