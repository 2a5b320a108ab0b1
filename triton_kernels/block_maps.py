"""The maps of planes: device functions from the numbers of a tile to a :class:`Mapped`.

A new map is one function here and one entry in the table of ``backends/triton/block_math.py``. What
a kernel does not use of a record, the compiler leaves out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# Beyond all exponents of fp64.
FAR = tl.constexpr(1e4)


class Mapped(NamedTuple):
    """The value of a map, and its derivatives by each plane and by the row's and column's number;
    all in the planes' dtype.
    """

    value: Any
    planes: Any
    row: Any
    col: Any


@triton.jit
def wide(x):
    """As fp64; half precision by way of fp32, as there is no other."""
    return x if x.dtype == tl.float64 else x.to(tl.float32).to(tl.float64)


@triton.jit
def volume(planes, row, col):
    """col sqrt(row - sum of squares), 0 and without derivatives where the radicand is not positive;
    NaN shows. Squares may leave little of the row's number: they are taken off in fp64.
    """
    left = wide(row) + tl.zeros(planes[0].shape, tl.float64)
    for p in tl.static_range(len(planes)):
        own = wide(planes[p])
        left -= own * own
    left = left.to(planes[0].dtype)
    none = left <= 0
    root = tl.sqrt(tl.where(none, 1.0, left))
    rate = tl.where(none, 0.0, col / root)
    by_planes = (-planes[0] * rate,)
    for p in tl.static_range(1, len(planes)):
        by_planes = by_planes + (-planes[p] * rate,)  # noqa: RUF005 - Triton unpacks none
    return Mapped(tl.where(none, 0.0, root * col), by_planes, rate * 0.5, tl.where(none, 0.0, root))


@triton.jit
def soft_target(planes, row, col):
    """e^(V_0 + row + col) V_1"""
    weight = _power(wide(planes[0]) + wide(row) + wide(col), planes[0])
    value = weight * planes[1]
    return Mapped(value, (value, weight), value, value)


@triton.jit
def centred(planes, row, col):
    """V_0 - row - col"""
    value = (wide(planes[0]) - wide(row) - wide(col)).to(planes[0].dtype)
    one = tl.full(planes[0].shape, 1.0, planes[0].dtype)
    return Mapped(value, (one,), -one, -one)


@triton.jit
def _power(x, like):
    """e^x in the dtype of ``like``: what rounding x to fp32 would take is put into the power."""
    y = x * LOG2E
    if like.dtype == tl.float64:
        power = tl.exp2(y)
    else:
        # Of an infinite exponent nothing is left to be put in.
        y = tl.where(y == y, tl.minimum(tl.maximum(y, -FAR), FAR), y)
        high = y.to(like.dtype)
        low = (y - high.to(tl.float64)).to(like.dtype)
        power = tl.exp2(high) * tl.fma(low, LN2, 1.0)
    return power
