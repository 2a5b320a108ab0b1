"""From dot products to what a channel exponentiates or a pair sum's function is applied to."""

from __future__ import annotations

import triton
import triton.language as tl

from .predicates import kept

# What stands at the start of a reduction in CODE, before the starts of its class weights.
PER_ROW = tl.constexpr(0)
ROW_OFFSET = tl.constexpr(1)
COL_OFFSET = tl.constexpr(2)
PAIRS = tl.constexpr(3)
PHI = tl.constexpr(4)
CLASSES = tl.constexpr(5)
FLOOR = tl.constexpr(6)
HEADER = tl.constexpr(7)


@triton.jit
def affine(
    dots,
    vectors,
    data,
    shift,
    CODE: tl.constexpr,
    AT: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
):
    """dots (hi + lo) + row offset + column offset + class weights - shift.

    ``vectors``: coefficient's high and low part (one a row, or one), row offset, column offset,
    class weights. The shift joins the offsets: what is large in both is gone before dots are added.
    """
    if CODE[AT + PER_ROW]:
        high = tl.load(vectors[0] + rows, mask=rows < row_end, other=0.0)[:, None]
        low = tl.load(vectors[1] + rows, mask=rows < row_end, other=0.0)[:, None]
    else:
        high = tl.load(vectors[0])
        low = tl.load(vectors[1])
    offset = tl.zeros([1, 1], dots.dtype) - shift
    if CODE[AT + ROW_OFFSET]:
        offset = offset + tl.load(vectors[2] + rows, mask=rows < row_end, other=0.0)[:, None]
    if CODE[AT + COL_OFFSET]:
        offset = offset + tl.load(vectors[3] + cols, mask=cols < col_end, other=0.0)[None, :]
    value = tl.fma(dots, high, tl.fma(dots, low, offset))
    COUNT: tl.constexpr = CODE[AT + CLASSES]
    for i in tl.static_range(COUNT):
        weight = tl.load(vectors[4] + i)
        members = kept(CODE, CODE[AT + HEADER + i], data, rows, cols, row_end, col_end)
        value = value + tl.where(members, weight, 0.0)
    return value


@triton.jit
def included(
    inside,
    data,
    CODE: tl.constexpr,
    AT: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
):
    """The pairs of ``inside`` that the reduction keeps."""
    if CODE[AT + PAIRS] > 0:
        inside = inside & kept(CODE, CODE[AT + PAIRS], data, rows, cols, row_end, col_end)
    return inside


@triton.jit
def phi(x, KIND: tl.constexpr):
    """softplus, relu, identity or square."""
    if KIND == 0:
        # log1p of the smaller power: right where 1 + e^x would swallow it.
        small = tl.exp(-tl.abs(x))
        y = tl.maximum(x, 0.0) + _log1p(small)
        # A maximum drops NaN.
        value = tl.where(x == x, y, x)
    elif KIND == 1:
        value = tl.where(x > 0, x, tl.where(x == x, 0.0, x))
    elif KIND == 2:
        value = x
    else:
        tl.static_assert(KIND == 3)
        value = x * x
    return value


@triton.jit
def phi_and_slope(x, KIND: tl.constexpr):
    """phi(x) and phi'(x); of softplus by one power."""
    if KIND == 0:
        small = tl.exp(-tl.abs(x))
        more = _log1p(small) if x.dtype == tl.float64 else _log1p_of_fp32(small)
        # A maximum drops NaN, which ``more`` has.
        value = tl.maximum(x, 0.0) + more
        rate = tl.where(x >= 0, 1.0, small) / (1.0 + small)
    else:
        value = phi(x, KIND)
        rate = slope(x, KIND)
    return value, rate


@triton.jit
def _log1p(x):
    """log(1 + x) of x in [0, 1]: the error of rounding 1 + x is divided out."""
    total = 1.0 + x
    return tl.where(total == 1.0, x, tl.log(total) * (x / (total - 1.0)))


@triton.jit
def _log1p_of_fp32(x):
    """log(1 + x) of x in [0, 1], by a polynomial of degree 10: the relative error is at most
    1.6e-7, its root mean square 3.3e-8, as that of :func:`_log1p`, at a third of the instructions.
    """
    y = tl.fma(x, -0.0032440212089568377, 0.01985144428908825)
    y = tl.fma(x, y, -0.056959498673677444)
    y = tl.fma(x, y, 0.10603651404380798)
    y = tl.fma(x, y, -0.15305590629577637)
    y = tl.fma(x, y, 0.1967593878507614)
    y = tl.fma(x, y, -0.24954134225845337)
    y = tl.fma(x, y, 0.3332996368408203)
    y = tl.fma(x, y, -0.4999990165233612)
    y = tl.fma(x, y, 1.0)
    return x * y


@triton.jit
def slope(x, KIND: tl.constexpr):
    """phi'(x)."""
    if KIND == 0:
        value = 1.0 / (1.0 + tl.exp(-x))
    elif KIND == 1:
        value = tl.where(x > 0, 1.0, 0.0)
    elif KIND == 2:
        value = tl.full(x.shape, 1.0, x.dtype)
    else:
        tl.static_assert(KIND == 3)
        value = 2.0 * x
    return value
