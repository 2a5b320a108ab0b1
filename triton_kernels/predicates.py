"""Predicates on pairs, as device functions composed at compile time.

A compiled problem is one flat tuple of integers, CODE, known at compile time: Triton indexes tuples
of numbers but not tuples of tuples. A predicate stands in it in prefix order:

    INDEX, slot               data[slot][i] == j
    EQUAL, slot, slot         data[slot][i] == data[slot][j]
    OVERLAP, slot, slot       data[slot][i] & data[slot][j] != 0
    NOT, predicate
    AND or OR, distance to the right operand, left operand, right operand
"""

from __future__ import annotations

import triton
import triton.language as tl

INDEX = tl.constexpr(0)
EQUAL = tl.constexpr(1)
OVERLAP = tl.constexpr(2)
NOT = tl.constexpr(3)
AND = tl.constexpr(4)
OR = tl.constexpr(5)


@triton.jit
def kept(CODE: tl.constexpr, AT: tl.constexpr, data, rows, cols, row_end, col_end):
    """The predicate at CODE[AT] on a tile, true or false for each pair."""
    OP: tl.constexpr = CODE[AT]
    if OP == INDEX:
        pairs = _index(data[CODE[AT + 1]], rows, cols, row_end)
    elif OP == EQUAL:
        pairs = _equal(data[CODE[AT + 1]], data[CODE[AT + 2]], rows, cols, row_end, col_end)
    elif OP == OVERLAP:
        pairs = _overlap(data[CODE[AT + 1]], data[CODE[AT + 2]], rows, cols, row_end, col_end)
    elif OP == NOT:
        pairs = kept(CODE, AT + 1, data, rows, cols, row_end, col_end) == 0
    else:
        RIGHT: tl.constexpr = AT + CODE[AT + 1]
        left = kept(CODE, AT + 2, data, rows, cols, row_end, col_end)
        right = kept(CODE, RIGHT, data, rows, cols, row_end, col_end)
        if OP == AND:
            pairs = left & right
        else:
            tl.static_assert(OP == OR)
            pairs = left | right
    return pairs


@triton.jit
def _index(columns, rows, cols, row_end):
    # Compared as 32-bit numbers, as there are no more columns: one instruction a score, not two.
    wanted = tl.load(columns + rows, mask=rows < row_end, other=-1).to(tl.int32)
    return wanted[:, None] == cols[None, :]


@triton.jit
def _equal(row_ids, col_ids, rows, cols, row_end, col_end):
    own = tl.load(row_ids + rows, mask=rows < row_end, other=0)
    other = tl.load(col_ids + cols, mask=cols < col_end, other=0)
    return own[:, None] == other[None, :]


@triton.jit
def _overlap(row_masks, col_masks, rows, cols, row_end, col_end):
    own = tl.load(row_masks + rows, mask=rows < row_end, other=0)
    other = tl.load(col_masks + cols, mask=cols < col_end, other=0)
    return (own[:, None] & other[None, :]) != 0
