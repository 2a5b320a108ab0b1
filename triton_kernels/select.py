"""Columns picked of each row: the best of all, and the best of each group."""

from __future__ import annotations

import triton
import triton.language as tl

from .place import Block, place_of
from .predicates import kept
from .tiles import BOUNDS, dot_products, tile_at


@triton.jit(do_not_specialize=[*BOUNDS, "col_step"])
def top_k(
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
    col_step,
    data,
    after,
    values,
    columns,
    PREDICATE: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """values[i, p, :] and columns[i, p, :]: of row i and its columns from p col_step to before
    (p + 1) col_step the best K, in any order. ``after``: nothing, or the value and the column of
    each row behind which those come that count.
    """
    parts = tl.cdiv(col_end - first_col, col_step)
    part = tl.program_id(0) % parts
    row = first_row + (tl.program_id(0) // parts) * ROWS
    begin = first_col + part * col_step
    end = tl.minimum(begin + col_step, col_end)
    block = Block(first_row, row_end, begin, end)
    slots = tl.arange(0, K)
    lowest = _ranked(tl.full([1, 1], float("-inf"), ACC))
    best = tl.broadcast_to(lowest, [ROWS, K])
    # No two are equal, also where nothing is picked yet.
    picked = tl.broadcast_to(-1 - slots[None, :], [ROWS, K])
    for col in range(begin, end, COLS):
        dots = dot_products(
            query, key, query_stride, query_step, key_stride, key_step,
            row, col, row_end, end, D, DESCRIPTORS, PRECISION, ACC, ROWS, COLS, DEPTH,
        )  # fmt: skip
        place = place_of(row, col, block, data, False, ROWS, COLS)
        ranks = _ranked(dots)
        counts = _counts(PREDICATE, place)
        if len(after) > 0:
            inside = place.rows < row_end
            limit = _ranked(tl.load(after[0] + place.rows, mask=inside, other=0))[:, None]
            last = tl.load(after[1] + place.rows, mask=inside, other=0)[:, None]
            counts &= (ranks < limit) | ((ranks == limit) & (place.cols[None, :] > last))
        ranks = tl.where(counts, ranks, lowest)
        some = 1
        # Ever more rarely a tile has any column for any row.
        while some > 0:
            worst = tl.min(best, 1)
            top, at = tl.max(ranks, 1, return_indices=True)
            taken = (top > worst)[:, None]
            some = tl.max(tl.max(taken.to(tl.int32), 1), 0)
            if some > 0:
                # Of equal worst ones that of the largest column goes.
                is_worst = best == worst[:, None]
                place_of_worst = tl.max(tl.where(is_worst, picked, -1 - K), 1)
                replaced = taken & is_worst & (picked == place_of_worst[:, None])
                best = tl.where(replaced, top[:, None], best)
                picked = tl.where(replaced, (col + at)[:, None], picked)
                chosen = tl.arange(0, COLS)[None, :] == at[:, None]
                ranks = tl.where(taken & chosen, lowest, ranks)
    rows = row + tl.arange(0, ROWS)
    places = ((rows.to(tl.int64) * parts + part) * K)[:, None] + slots[None, :]
    there = (rows < row_end)[:, None]
    tl.store(values + places, _number(best), mask=there)
    tl.store(columns + places, tl.where(picked < 0, -1, picked), mask=there)


@triton.jit(do_not_specialize=[*BOUNDS, "groups"])
def group_max(
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
    groups,
    data,
    starts,
    values,
    columns,
    PREDICATE: tl.constexpr,
    D: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """values[i, g] and columns[i, g]: the best of row i from starts[g] to before starts[g + 1]."""
    row_tiles = tl.cdiv(row_end - first_row, ROWS)
    tile_row, group = tile_at(tl.program_id(0), row_tiles, groups, GROUP)
    row = first_row + tile_row * ROWS
    begin = tl.load(starts + group).to(tl.int32)
    end = tl.load(starts + group + 1).to(tl.int32)
    block = Block(first_row, row_end, begin, end)
    lowest = _ranked(tl.full([1, 1], float("-inf"), ACC))
    best = tl.max(tl.broadcast_to(lowest, [ROWS, 2]), 1)
    picked = tl.full([ROWS], -1, tl.int32)
    for col in range(begin, end, COLS):
        dots = dot_products(
            query, key, query_stride, query_step, key_stride, key_step,
            row, col, row_end, end, D, DESCRIPTORS, PRECISION, ACC, ROWS, COLS, DEPTH,
        )  # fmt: skip
        place = place_of(row, col, block, data, False, ROWS, COLS)
        ranks = tl.where(_counts(PREDICATE, place), _ranked(dots), lowest)
        top, at = tl.max(ranks, 1, return_indices=True)
        better = top > best
        best = tl.where(better, top, best)
        picked = tl.where(better, col + at, picked)
    rows = row + tl.arange(0, ROWS)
    places = rows.to(tl.int64) * groups + group
    tl.store(values + places, _number(best), mask=rows < row_end)
    tl.store(columns + places, picked, mask=rows < row_end)


@triton.jit
def _counts(PREDICATE: tl.constexpr, place):
    """The pairs of a tile that are there and in the predicate."""
    return place.inside if PREDICATE is None else place.inside & kept(PREDICATE, place)


@triton.jit
def _ranked(numbers):
    """Integers in the order of the numbers: both zeros alike, NaN above all."""
    numbers = tl.where(numbers == 0, 0.0, numbers)
    if numbers.dtype == tl.float64:
        bits = numbers.to(tl.int64, bitcast=True)
    else:
        bits = numbers.to(tl.int32, bitcast=True)
    LARGEST: tl.constexpr = (1 << (bits.dtype.primitive_bitwidth - 1)) - 1
    return tl.where(numbers == numbers, _flipped(bits), LARGEST)


@triton.jit
def _number(ranks):
    """What :func:`_ranked` made of numbers, undone."""
    if ranks.dtype == tl.int64:
        numbers = _flipped(ranks).to(tl.float64, bitcast=True)
    else:
        numbers = _flipped(ranks).to(tl.float32, bitcast=True)
    return numbers


@triton.jit
def _flipped(bits):
    """Of negative ones all bits but the sign."""
    WIDTH: tl.constexpr = bits.dtype.primitive_bitwidth - 1
    return bits ^ ((bits >> WIDTH) & ((1 << WIDTH) - 1))
