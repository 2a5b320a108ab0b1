"""From partial sums to stats: added in a fixed order, certified, and their logarithms taken."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .shift import REACH, SMALLEST

# Not compiled anew for a length that 16 divides, or another.
LENGTHS = ["first_row", "height", "row_tiles", "first_col", "width", "col_tiles"]
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=LENGTHS)
def add_partials(
    row_parts,
    row_totals,
    first_row,
    height,
    row_tiles,
    col_parts,
    col_totals,
    first_col,
    width,
    col_tiles,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add a block's partial sums [reductions, tiles, length] to the totals of rows and columns.

    ``row_totals`` and ``col_totals``: one vector a reduction, of all N or M. A program owns BLOCK
    entries of each, so that of a diagonal block, where both are one vector, no two programs write
    to the same.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if ROWS:
        for r in tl.static_range(len(row_totals)):
            _add(row_parts, row_totals[r], i, first_row, height, row_tiles, r)
    if COLS:
        for r in tl.static_range(len(col_totals)):
            _add(col_parts, col_totals[r], i, first_col, width, col_tiles, r)


@triton.jit
def _add(parts, totals, i, first, length, tiles, r: tl.constexpr):
    own = i - first
    inside = (own >= 0) & (own < length)
    total = tl.load(totals + i, mask=inside, other=0)
    own_parts = parts + tl.cast(tiles, tl.int64) * length * r
    tl.store(totals + i, _sum_of_parts(own_parts, tiles, own, length, inside, total), mask=inside)


@triton.jit(do_not_specialize=["n", "m"])
def certify(
    row_totals,
    row_general,
    row_tops,
    n,
    col_totals,
    col_general,
    col_tops,
    m,
    spans,
    flag,
    EMPTY: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Set the flag if the fixed shift of any channel cost precision; ready the general form's
    totals (0) and shifts (-inf) in case. EMPTY: see :func:`_certify`, of each channel.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if ROWS:
        for r in tl.static_range(len(row_totals)):
            _certify(
                row_totals[r], row_general[r], row_tops[r], i, n, m, spans + r, flag, EMPTY[r],
            )  # fmt: skip
    if COLS:
        for r in tl.static_range(len(col_totals)):
            _certify(
                col_totals[r], col_general[r], col_tops[r], i, m, n, spans + r, flag, EMPTY[r],
            )  # fmt: skip


@triton.jit
def _certify(
    totals, general, tops, i, length, terms, span_place, flag, EMPTY: tl.constexpr
):  # fmt: skip
    """Powers below 2^-126 may be flushed: of a sum of at least ``terms`` 2^-102 they are 2^-24.
    EMPTY: a sum that is 0 is one of no pair, as no power is less than the smallest normal number;
    else all of its powers may have vanished.
    """
    inside = i < length
    span = tl.load(span_place)
    total = tl.load(totals + i, mask=inside, other=float("inf"))
    low = total < terms * SMALLEST
    if EMPTY:
        low = low & (total != 0.0)
    few = tl.max(tl.where(low, 1, 0), 0) != 0
    beyond = tl.max(tl.where(inside & ((total < float("inf")) == 0), 1, 0), 0) != 0
    # The last also for a span that is no number.
    failed = (few & (span > 2 * REACH)) | beyond | ((span < float("inf")) == 0)
    # Whoever writes, writes the same.
    tl.store(flag, 1, mask=failed)
    tl.store(general + i, tl.zeros_like(total), mask=inside)
    tl.store(tops + i, tl.full(i.shape, float("-inf"), tops.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=LENGTHS)
def merge_partials(
    row_parts,
    row_part_tops,
    row_totals,
    row_tops,
    first_row,
    height,
    row_tiles,
    col_parts,
    col_part_tops,
    col_totals,
    col_tops,
    first_col,
    width,
    col_tiles,
    flag,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """As :func:`add_partials`, of sums with shifts of their own: 2^tops totals += 2^t parts."""
    if tl.load(flag) == 0:
        return
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if ROWS:
        for r in tl.static_range(len(row_totals)):
            _merge(
                row_parts, row_part_tops, row_totals[r], row_tops[r],
                i, first_row, height, row_tiles, r,
            )  # fmt: skip
    if COLS:
        for r in tl.static_range(len(col_totals)):
            _merge(
                col_parts, col_part_tops, col_totals[r], col_tops[r],
                i, first_col, width, col_tiles, r,
            )  # fmt: skip


@triton.jit
def _merge(parts, part_tops, totals, tops, i, first, length, tiles, r: tl.constexpr):
    own = i - first
    inside = (own >= 0) & (own < length)
    total = tl.load(totals + i, mask=inside, other=0.0)
    top = tl.load(tops + i, mask=inside, other=float("-inf"))
    total, top = _fold(parts, part_tops, own, inside, length, tiles, r, total, top)
    tl.store(totals + i, total, mask=inside)
    tl.store(tops + i, top, mask=inside)


@triton.jit
def _fold(parts, part_tops, own, inside, length, tiles, r: tl.constexpr, total, top):
    """A sum above a shift, with the parts of all tiles put in."""
    at = own + tl.cast(tiles, tl.int64) * length * r
    for _ in range(tiles):
        part = tl.load(parts + at, mask=inside, other=0.0).to(total.dtype)
        part_top = tl.load(part_tops + at, mask=inside, other=float("-inf"))
        larger = tl.maximum(top, part_top)
        base = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp2(top - base).to(total.dtype)
        total += part * tl.exp2(part_top - base).to(total.dtype)
        top = larger
        at += length
    return total, top


@triton.jit(do_not_specialize=["height", "row_tiles", "width", "col_tiles"])
def merge_only_block(
    row_parts,
    row_part_tops,
    row_tops,
    row_bits,
    row_stats,
    height,
    row_tiles,
    col_parts,
    col_part_tops,
    col_tops,
    col_bits,
    col_stats,
    width,
    col_tiles,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DIAGONAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Log-sum-exps, and their shifts, of a problem that is one block: from partial sums with shifts
    of their own. On a DIAGONAL the columns' parts belong to the rows.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    none = tl.zeros([BLOCK], tl.float64)
    if ROWS:
        inside = i < height
        for r in tl.static_range(len(row_tops)):
            lowest = tl.full([BLOCK], float("-inf"), row_tops[r].dtype.element_ty)
            total, top = _fold(
                row_parts, row_part_tops, i, inside, height, row_tiles, r, none, lowest
            )
            if DIAGONAL:
                total, top = _fold(
                    col_parts, col_part_tops, i, inside, height, col_tiles, r, total, top
                )
            tl.store(row_tops[r] + i, top, mask=inside)
            _store_log(row_bits[r], row_stats[r], i, inside, total, top)
    if COLS:
        inside = i < width
        for r in tl.static_range(len(col_tops)):
            lowest = tl.full([BLOCK], float("-inf"), col_tops[r].dtype.element_ty)
            total, top = _fold(
                col_parts, col_part_tops, i, inside, width, col_tiles, r, none, lowest
            )
            tl.store(col_tops[r] + i, top, mask=inside)
            _store_log(col_bits[r], col_stats[r], i, inside, total, top)


@triton.jit(do_not_specialize=["n", "m"])
def take_logs(
    row_totals,
    row_general,
    row_tops,
    row_bits,
    row_stats,
    n,
    col_totals,
    col_general,
    col_tops,
    col_bits,
    col_stats,
    m,
    shifts,
    flag,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Log-sum-exps of the form that holds, in bits (fp64) and in nats; -inf of no pair at all."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    general = tl.load(flag) != 0
    if ROWS:
        for r in tl.static_range(len(row_totals)):
            _take_log(
                row_totals[r], row_general[r], row_tops[r], row_bits[r], row_stats[r],
                i, n, shifts + r, general,
            )  # fmt: skip
    if COLS:
        for r in tl.static_range(len(col_totals)):
            _take_log(
                col_totals[r], col_general[r], col_tops[r], col_bits[r], col_stats[r],
                i, m, shifts + r, general,
            )  # fmt: skip


@triton.jit
def _take_log(totals, general_totals, tops, bits, stats, i, length, shift_place, general):
    inside = i < length
    own = tl.load(totals + i, mask=inside, other=1.0)
    other = tl.load(general_totals + i, mask=inside, other=1.0)
    shift = tl.zeros(i.shape, tops.dtype.element_ty) + tl.load(shift_place)
    top = tl.load(tops + i, mask=inside, other=0.0)
    total = tl.where(general, other, own)
    _store_log(bits, stats, i, inside, total, tl.where(general, top, shift))


@triton.jit
def _store_log(bits, stats, i, inside, total, shift):
    empty = total == 0.0
    value = tl.log(tl.where(empty, 1.0, total)) * LOG2E + shift.to(total.dtype)
    value = tl.where(empty, float("-inf"), value)
    tl.store(bits + i, value, mask=inside)
    tl.store(stats + i, (value * LN2).to(stats.dtype.element_ty), mask=inside)


class PartialProducts(NamedTuple):
    """Row products of a block's tiles [tiles, length], of both forms; the flag says which ran."""

    parts: Any
    general: Any
    flag: Any


@triton.jit(do_not_specialize=["tiles", "general_tiles", "first", "length"])
def add_products(
    partial, tiles, general_tiles, totals, first, length, unit,
    GENERAL: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """totals[first + i] += (sum over t of parts[t, i]) / unit, of the form that ran."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < length
    total = sum_of_products(partial, tiles, general_tiles, i, length, inside, unit, GENERAL, UNIT)
    before = tl.load(totals + first + i, mask=inside, other=0.0)
    tl.store(totals + first + i, before + total, mask=inside)


@triton.jit
def sum_of_products(
    partial, tiles, general_tiles, i, length, inside, unit,
    GENERAL: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """(sum over t of parts[t, i]) / unit, fp64, of the form that ran."""
    total = tl.zeros(i.shape, tl.float64)
    if GENERAL:
        if tl.load(partial.flag) != 0:
            total = _sum_of_parts(partial.general, general_tiles, i, length, inside, total)
        else:
            total = _sum_of_parts(partial.parts, tiles, i, length, inside, total)
    else:
        total = _sum_of_parts(partial.parts, tiles, i, length, inside, total)
    if UNIT:
        total = total / tl.load(unit).to(total.dtype)
    return total


@triton.jit
def _sum_of_parts(parts, tiles, i, length, inside, total):
    at = i.to(tl.int64)
    for _ in range(tiles):
        total += tl.load(parts + at, mask=inside, other=0).to(total.dtype)
        at += length
    return total
