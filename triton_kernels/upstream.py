"""From the stats' upstream gradients to the coefficients of G, and the unit that G is stored in."""

from __future__ import annotations

import triton
import triton.language as tl

from .reductions import split_scale

# unit |G| stays below 2^14: fp16 ends at 2^16, and its smallest normal number is 2^-14.
TOP = tl.constexpr(14.0)
# Upstream gradients near the smallest fp32 would ask for a unit that fp32 does not have.
LARGEST = tl.constexpr(126.0)


@triton.jit(do_not_specialize=["n", "m"])
def largest_entries(
    upstream, n, m, parts, OF_COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """parts[v, program]: largest finite magnitude of BLOCK entries of every vector."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    for v in tl.static_range(len(upstream)):
        length = m if OF_COLUMNS[v] else n
        value = tl.abs(tl.load(upstream[v] + i, mask=i < length, other=0.0))
        largest = tl.max(tl.where(value < float("inf"), value, 0.0), 0)
        tl.store(parts + v * tl.num_programs(0) + tl.program_id(0), largest)


@triton.jit(do_not_specialize=["n", "m", "programs"])
def coefficients(
    upstream,
    bits,
    tops,
    out,
    n,
    m,
    shifts,
    flag,
    parts,
    programs,
    unit,
    of_loss,
    split,
    CHANNEL: tl.constexpr,
    OF_COLUMNS: tl.constexpr,
    FIXED: tl.constexpr,
    GENERAL: tl.constexpr,
    TWICE: tl.constexpr,
    UNIT: tl.constexpr,
    DIRECT: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
    SWEEP: tl.constexpr,
):
    """out[v] = unit upstream[v], of a channel times 2^(shift - bits[v]): coefficients of powers
    above the shift; 0 where no pair was kept. The shift is the FIXED form's, or tops[v] of the
    GENERAL one; of both, the flag's.

    CHANNEL[v]: which channel the vector belongs to, or -1 of a pair sum. UNIT: a power of two
    that fits G into half precision, else 1. Every weight is at most the sum of the largest upstream
    gradients (there may be more of them than coefficients): a power over its sum, and phi' of a
    pair sum, are at most 1. DIRECT: they are searched here, not in the ``parts`` of
    :func:`largest_entries`. TWICE: in the self mode, where rows count as columns too.
    SCALED: all upstream gradients are multiplied by the one of the loss first. And the coefficients
    of a scale that only the device knows.
    """
    split_scale(split)
    factor = tl.load(of_loss).to(tl.float64) if SCALED else 1.0
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if UNIT:
        total = _sum_of_largest(upstream, n, m, parts, programs, OF_COLUMNS, DIRECT, SWEEP)
        scale = _unit(total * tl.abs(factor) if SCALED else total, TWICE)
        # All programs write the same.
        tl.store(unit, scale.to(unit.dtype.element_ty))
    for v in tl.static_range(len(out)):
        length = m if OF_COLUMNS[v] else n
        inside = i < length
        grad = tl.load(upstream[v] + i, mask=inside, other=0.0)
        if SCALED:
            grad = grad.to(tl.float64) * factor
        if CHANNEL[v] >= 0:
            lse = tl.load(bits[v] + i, mask=inside, other=0.0)
            shift = _shift(tops[v] + i, inside, shifts + CHANNEL[v], flag, FIXED, GENERAL)
            value = grad.to(lse.dtype) * tl.exp2(shift.to(lse.dtype) - lse)
            grad = tl.where(lse == float("-inf"), 0.0, value)
        if UNIT:
            grad = grad.to(tl.float64) * scale
        tl.store(out[v] + i, grad.to(out[v].dtype.element_ty), mask=inside)


@triton.jit
def _shift(tops, inside, fixed, flag, FIXED: tl.constexpr, GENERAL: tl.constexpr):
    if GENERAL:
        shift = tl.load(tops, mask=inside, other=0.0)
        if FIXED:
            shift = tl.where(tl.load(flag) != 0, shift, tl.load(fixed))
    else:
        shift = tl.load(fixed)
    return shift


@triton.jit
def _sum_of_largest(
    upstream, n, m, parts, programs, OF_COLUMNS: tl.constexpr, DIRECT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    total = tl.sum(tl.zeros([BLOCK], tl.float64), 0)
    for v in tl.static_range(len(upstream)):
        if DIRECT:
            total += _largest(upstream[v], m if OF_COLUMNS[v] else n, BLOCK)
        else:
            total += _largest(parts + v * programs, programs, BLOCK)
    return total


@triton.jit
def _unit(total, TWICE: tl.constexpr):
    """The power of two that brings the sum of the largest gradients below 2^TOP."""
    largest = total * 2.0 if TWICE else total
    usable = (largest > 0.0) & (largest < float("inf"))
    exponent = TOP - tl.ceil(tl.log2(tl.where(usable, largest, 1.0)))
    return tl.where(usable, tl.exp2(tl.minimum(exponent, LARGEST)), 1.0)


@triton.jit
def _largest(vector, length, BLOCK: tl.constexpr):
    """Largest finite magnitude: what is none spoils its own row, not the unit of all."""
    best = tl.zeros([BLOCK], tl.float64)
    for start in range(0, length, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.abs(tl.load(vector + at, mask=at < length, other=0.0)).to(tl.float64)
        best = tl.maximum(best, tl.where(value < float("inf"), value, 0.0))
    return tl.max(best, 0)
