"""Accuracy of the C++ mathematics of one score, and of the row norms."""

from __future__ import annotations

import numpy as np
import pytest
from native_problem import (
    _C,
    ROWS,
    SIGMOID,
    SOFTPLUS,
    Array,
    Pass,
    Problem,
    address,
    dtypes,
    levels,
)


def one_column(x: Array) -> Problem:
    """A problem whose rows hold one score each, equal to the dot."""
    problem = Problem((len(x), 1, 0, len(x), 1), x.dtype.type)
    problem.dots[:, 0] = x
    problem.coef_hi[:], problem.coef_lo[:], problem.row_offset[:] = 1, 0, 0
    return problem


def powers(x: Array, level: str, shift: float) -> Array:
    """2^x, as the weights of rows with log-sum-exp 0; NaN is the general form."""
    problem = one_column(x)
    ones, zeros = np.ones(len(x), x.dtype), np.zeros(len(x))
    run = Pass(problem, level, problem.stat(), sides=ROWS)
    return run.weights(([ones], []), ([zeros], []), np.array([shift]))[:, 0]


def ulps(actual: Array, expected: Array, dtype: type) -> Array:
    return np.abs(actual - expected) / np.spacing(np.abs(expected).astype(dtype)).astype(np.float64)


@levels
@dtypes
@pytest.mark.parametrize("shift", [0.0, np.nan], ids=["bounded", "general"])
def test_exp2_accuracy(level: str, dtype: type, shift: float) -> None:
    x = np.concatenate([np.linspace(-125.5, 125.5, 200_001), np.arange(-126, 127)]).astype(dtype)
    exact = np.exp2(x.astype(np.longdouble))
    assert ulps(powers(x, level, shift), exact, dtype).max() <= 1.5


@levels
def test_exp2_flushes_and_saturates(level: str) -> None:
    x = np.array([-126.001, -127.3, -150.0, -1e9, -3e38, 128.0, 1e9, 3e38], np.float32)
    np.testing.assert_array_equal(powers(x, level, np.nan), [0.0] * 5 + [np.inf] * 3)


@levels
@dtypes
def test_softplus_accuracy(level: str, dtype: type) -> None:
    near = np.logspace(-30, 4, 20_001)
    x = np.concatenate([np.linspace(-87, 87, 200_001), near, -near[near < 87]]).astype(dtype)
    problem = one_column(x)
    run = Pass(problem, level, problem.stat(SOFTPLUS), sides=ROWS)
    wide = x.astype(np.longdouble)
    exact = np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide)))
    assert ulps(run.reduce().rows[0], exact, dtype).max() <= 4
    g = run.weights(([np.ones(len(x), dtype)], []))[:, 0]
    t = np.exp(-np.abs(wide))
    assert ulps(g, np.where(x < 0, t, 1) / (1 + t), dtype).max() <= 4


@levels
@dtypes
def test_sigmoid_accuracy(level: str, dtype: type) -> None:
    x = np.concatenate([np.linspace(-87, 87, 200_001), np.logspace(-30, 1, 2001)]).astype(dtype)
    problem = one_column(x)
    run = Pass(problem, level, problem.stat(SIGMOID), sides=ROWS)
    t = np.exp(-np.abs(x.astype(np.longdouble)))
    assert ulps(run.reduce().rows[0], np.where(x < 0, t, 1) / (1 + t), dtype).max() <= 4
    slopes = run.weights(([np.ones(len(x), dtype)], []))[:, 0]
    assert ulps(slopes, t / (1 + t) ** 2, dtype).max() <= 6


def as_bfloat16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def from_bfloat16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32)


NORM_DTYPES = {0: np.float32, 1: np.float64, 2: np.uint16, 3: np.float16}


@pytest.mark.parametrize("code", list(NORM_DTYPES))
@pytest.mark.parametrize("threads", [1, 2])
def test_max_norm(code: int, threads: int) -> None:
    rng = np.random.default_rng(1)
    wide = rng.normal(size=(701, 2 * 203)) * np.logspace(-7, 3, 701)[:, None]
    x = as_bfloat16(wide) if code == 2 else wide.astype(NORM_DTYPES[code])

    def measure(view: np.ndarray) -> tuple[float, float]:
        strides = [stride // view.itemsize for stride in view.strides]
        values = from_bfloat16(view) if code == 2 else view
        exact = np.sqrt(np.square(values.astype(np.float64)).sum(1)).max(initial=0.0)
        return _C.max_norm(address(view), code, *view.shape, *strides, threads), exact

    # Contiguous, strided both ways, reversed, subnormal in fp16, empty.
    for view in (x, x[::3, ::2], x.T, x[::-1], x[:40], x[:0], x[:, :0]):
        actual, exact = measure(view)
        np.testing.assert_allclose(actual, exact, rtol=1e-12)
    for bad in (np.inf, np.nan):
        x[300, 5] = as_bfloat16(np.array([bad]))[0] if code == 2 else bad
        np.testing.assert_equal(measure(x)[0], bad)
    x[10, 0] = x[300, 5]
    x[300, 5] = x[700, 7] = as_bfloat16(np.array([np.inf]))[0] if code == 2 else np.inf
    assert np.isnan(measure(x)[0])
