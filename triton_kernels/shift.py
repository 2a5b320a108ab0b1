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

REACH = tl.constexpr(fixed_shift.REACH)
COARSE = tl.constexpr(fixed_shift.COARSE)
SMALLEST = tl.constexpr(fixed_shift.SMALLEST)


@triton.jit
def _largest(vectors, count, BLOCK: tl.constexpr):
    """Largest entry of the one vector, NaN if any is; 0 if there is none."""
    best = tl.full([BLOCK], float("-inf"), tl.float64)
    spoilt = tl.zeros([BLOCK], tl.float64)
    if len(vectors) == 1:
        for start in range(0, count, BLOCK):
            i = start + tl.arange(0, BLOCK)
            value = tl.load(vectors[0] + i, mask=i < count, other=float("-inf")).to(tl.float64)
            best = tl.maximum(best, value)
            spoilt += tl.where(value == value, 0.0, value)
        result = tl.max(best, 0) + tl.sum(spoilt, 0)
    else:
        result = tl.sum(spoilt, 0)
    return result


@triton.jit
def _smallest(vectors, count, BLOCK: tl.constexpr):
    """Smallest entry of the one vector; 0 if there is none."""
    best = tl.full([BLOCK], float("inf"), tl.float64)
    if len(vectors) == 1:
        for start in range(0, count, BLOCK):
            i = start + tl.arange(0, BLOCK)
            value = tl.load(vectors[0] + i, mask=i < count, other=float("inf")).to(tl.float64)
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
    vectors,
    class_range,
    shifts,
    spans,
    flag,
    BLOCK: tl.constexpr,
):
    """shifts[c], and spans[c] = high - low in bits, of every channel; one program.

    ``norms`` [2, parts]: the largest squared norms of some queries and of some keys.
    """
    product = _largest((norms,), parts, BLOCK) * _largest((norms + parts,), parts, BLOCK)
    # The slack covers the rounding of the dot products.
    longest = tl.sqrt(product) * 1.001
    for c in tl.static_range(len(vectors)):
        _choose(longest, n, m, vectors[c], class_range + 2 * c, shifts + c, spans + c, BLOCK)
    tl.store(flag, 0)


@triton.jit
def _choose(longest, n, m, own, class_range, shift_place, span_place, BLOCK: tl.constexpr):
    if len(own.row_scale) == 2:
        scales, count = (own.row_scale[0],), n
    else:
        scales, count = (own.scale[0],), 1
    top = _largest(scales, count, BLOCK)
    reach = longest * tl.maximum(top, -_smallest(scales, count, BLOCK)) + 0.0 * top
    high = reach + _largest(own.row_offset, n, BLOCK)
    high += _largest(own.col_offset, m, BLOCK)
    low = _smallest(own.row_offset, n, BLOCK) - reach
    low += _smallest(own.col_offset, m, BLOCK)
    if len(own.weights) > 0:
        low += tl.load(class_range)
        high += tl.load(class_range + 1)
    span = high - low
    # Rounded to fp32, a shift beyond would be off by whole bits.
    span = tl.where(tl.maximum(high, -low) < COARSE, span, float("inf"))
    middle = tl.minimum(tl.maximum(high * 0.5, high - REACH), low + REACH)
    shift = tl.where(span <= 2 * REACH, middle, high - REACH)
    tl.store(shift_place, shift.to(shift_place.dtype.element_ty))
    tl.store(span_place, span)
