"""The fixed shift of a channel: bounds that prove it right, and the certificate afterwards.

Exponents lie within [low, high] bits by Cauchy and Schwarz. Where high - low is at most 2 REACH
every power is a normal number. Beyond, the shift leaves the top REACH bits as they are and powers
may vanish at the bottom; ``certify`` then proves that none of them mattered, or calls the general
form.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..engine import fixed_shift
from .exponents import CLASSES, COL_OFFSET, PER_ROW, ROW_OFFSET

REACH = tl.constexpr(fixed_shift.REACH)
COARSE = tl.constexpr(fixed_shift.COARSE)
SMALLEST = tl.constexpr(fixed_shift.SMALLEST)


@triton.jit
def _largest(vector, count, WANTED: tl.constexpr, BLOCK: tl.constexpr):
    """Largest entry, NaN if any is; 0 if there is no vector."""
    best = tl.full([BLOCK], float("-inf"), tl.float64)
    spoilt = tl.zeros([BLOCK], tl.float64)
    if WANTED:
        for start in range(0, count, BLOCK):
            i = start + tl.arange(0, BLOCK)
            value = tl.load(vector + i, mask=i < count, other=float("-inf")).to(tl.float64)
            best = tl.maximum(best, value)
            spoilt += tl.where(value == value, 0.0, value)
        result = tl.max(best, 0) + tl.sum(spoilt, 0)
    else:
        result = tl.sum(spoilt, 0)
    return result


@triton.jit
def _smallest(vector, count, WANTED: tl.constexpr, BLOCK: tl.constexpr):
    """Smallest entry; 0 if there is no vector."""
    best = tl.full([BLOCK], float("inf"), tl.float64)
    if WANTED:
        for start in range(0, count, BLOCK):
            i = start + tl.arange(0, BLOCK)
            value = tl.load(vector + i, mask=i < count, other=float("inf")).to(tl.float64)
            best = tl.minimum(best, value)
        result = tl.min(best, 0)
    else:
        result = tl.sum(tl.zeros([BLOCK], tl.float64), 0)
    return result


@triton.jit(do_not_specialize=["parts", "n", "m"])
def choose_shifts(
    norms,
    parts,
    n,
    m,
    channels,
    class_range,
    shifts,
    spans,
    flag,
    CODE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """shifts[c], and spans[c] = high - low in bits, of every channel; one program.

    ``norms`` [2, parts]: the largest squared norms of some queries and of some keys.
    """
    product = _largest(norms, parts, True, BLOCK)
    product *= _largest(norms + parts, parts, True, BLOCK)
    # The slack covers the rounding of the dot products.
    longest = tl.sqrt(product) * 1.001
    for c in tl.static_range(len(channels)):
        _choose(longest, n, m, channels[c], class_range, shifts, spans, c, CODE, CODE[c], BLOCK)
    tl.store(flag, 0)


@triton.jit
def _choose(
    longest,
    n,
    m,
    own,
    class_range,
    shifts,
    spans,
    c: tl.constexpr,
    CODE: tl.constexpr,
    AT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = n if CODE[AT + PER_ROW] else 1
    top = _largest(own[0], rows, True, BLOCK)
    reach = longest * tl.maximum(top, -_smallest(own[0], rows, True, BLOCK)) + 0.0 * top
    high = reach + _largest(own[2], n, CODE[AT + ROW_OFFSET], BLOCK)
    high += _largest(own[3], m, CODE[AT + COL_OFFSET], BLOCK)
    low = _smallest(own[2], n, CODE[AT + ROW_OFFSET], BLOCK) - reach
    low += _smallest(own[3], m, CODE[AT + COL_OFFSET], BLOCK)
    if CODE[AT + CLASSES]:
        low += tl.load(class_range + 2 * c)
        high += tl.load(class_range + 2 * c + 1)
    span = high - low
    # Rounded to fp32, a shift beyond would be off by whole bits.
    span = tl.where(tl.maximum(high, -low) < COARSE, span, float("inf"))
    middle = tl.minimum(tl.maximum(high * 0.5, high - REACH), low + REACH)
    shift = tl.where(span <= 2 * REACH, middle, high - REACH)
    tl.store(shifts + c, shift.to(shifts.dtype.element_ty))
    tl.store(spans + c, span)
