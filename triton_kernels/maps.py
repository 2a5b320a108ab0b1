"""What is summed of an argument, and its slope: functions of a pair sum, powers of a channel."""

from __future__ import annotations

import triton
import triton.language as tl

# Exponents of the smallest normal numbers, fp32 and fp64.
LOWEST = tl.constexpr(-126.0)
LOWEST_DOUBLE = tl.constexpr(-1022.0)


@triton.jit
def power(y):
    """2^y. As a slope too: of a logarithm of its sum, in the units of y."""
    return tl.exp2(y)


@triton.jit
def lasting_power(y):
    """2^y, but no less than the smallest normal number: only a sum of no pair is 0."""
    LEAST: tl.constexpr = LOWEST_DOUBLE if y.dtype == tl.float64 else LOWEST
    return tl.exp2(tl.maximum(y, LEAST, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def softplus(x):
    """log(1 + e^x)"""
    # log1p of the smaller power: right where 1 + e^x would swallow it.
    small = tl.exp(-tl.abs(x))
    y = tl.maximum(x, 0.0) + _log1p(small)
    # A maximum drops NaN.
    return tl.where(x == x, y, x)


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
def softplus_and_sigmoid(x):
    """Both by one power."""
    small = tl.exp(-tl.abs(x))
    more = _log1p(small) if x.dtype == tl.float64 else _log1p_of_fp32(small)
    # A maximum drops NaN, which ``more`` has.
    value = tl.maximum(x, 0.0) + more
    rate = tl.where(x >= 0, 1.0, small) / (1.0 + small)
    return value, rate


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)"""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def relu(x):
    """max(x, 0), NaN of NaN"""
    return tl.where(x > 0, x, tl.where(x == x, 0.0, x))


@triton.jit
def step(x):
    """1 above 0, else 0"""
    return tl.where(x > 0, 1.0, 0.0)


@triton.jit
def identity(x):
    """x"""
    return x


@triton.jit
def one(x):
    """1"""
    return tl.full(x.shape, 1.0, x.dtype)


@triton.jit
def square(x):
    """x^2"""
    return x * x


@triton.jit
def double(x):
    """2 x"""
    return 2.0 * x


@triton.jit
def sigmoid_slope(x):
    """e^-x / (1 + e^-x)^2"""
    _, slope = sigmoid_and_slope(x)
    return slope


@triton.jit
def sigmoid_and_slope(x):
    """Both by one power."""
    small = tl.exp(-tl.abs(x))
    share = 1.0 / (1.0 + small)
    return tl.where(x >= 0, share, small * share), small * share * share
