"""Merging of partial sums in a fixed order, and the choice between the two forms."""

from __future__ import annotations

import triton
import triton.language as tl

# Not compiled anew for a length that 16 divides, or another.
LENGTHS = ["first", "length", "tiles"]


@triton.jit(do_not_specialize=LENGTHS)
def add_partials(
    partials, totals, first, length, tiles, flag, FLAG: tl.constexpr, BLOCK: tl.constexpr
):
    """totals[first + i] += sum over t of partials[t, i], t in order, where the flag is FLAG."""
    if (tl.load(flag) != 0) != FLAG:
        return
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < length
    places = totals + first + i
    total = tl.load(places, mask=inside, other=0)
    at = i.to(tl.int64)
    for _ in range(tiles):
        total += tl.load(partials + at, mask=inside, other=0).to(total.dtype)
        at += length
    tl.store(places, total, mask=inside)


@triton.jit(do_not_specialize=LENGTHS)
def merge_partials(sums, tops, totals, shifts, first, length, tiles, flag, BLOCK: tl.constexpr):
    """Log-sum-exps with a shift of their own: 2^shifts totals += 2^tops sums, tile by tile."""
    if tl.load(flag) == 0:
        return
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < length
    total = tl.load(totals + first + i, mask=inside, other=0.0)
    shift = tl.load(shifts + first + i, mask=inside, other=float("-inf"))
    at = i.to(tl.int64)
    for _ in range(tiles):
        part = tl.load(sums + at, mask=inside, other=0.0).to(total.dtype)
        top = tl.load(tops + at, mask=inside, other=float("-inf"))
        larger = tl.maximum(shift, top)
        base = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp2(shift - base).to(total.dtype) + part * tl.exp2(top - base).to(
            total.dtype
        )
        shift = larger
        at += length
    tl.store(totals + first + i, total, mask=inside)
    tl.store(shifts + first + i, shift, mask=inside)
