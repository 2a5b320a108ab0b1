"""The fused C++ passes against an independent fp64 computation in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from native_problem import (
    BOTH,
    COLS,
    EQUAL,
    PHI,
    ROWS,
    SHAPES,
    SMALL,
    Array,
    Pass,
    Problem,
    all_sides,
    dtypes,
    forms,
    levels,
    log2_sum,
    vary,
)

VARIANTS = ["plain", "col_offset", "hole", "two holes", "equal", "overlap", "index", "everything"]
variants = pytest.mark.parametrize("variant", VARIANTS)


def tolerance(problem: Problem, level: str) -> float:
    """Absolute, on an exponent of 20 or so; without fma the product is rounded once more."""
    if problem.dtype is np.float64:
        return 1e-13
    return 4e-6 if level == "baseline" else 1e-6


def assert_lse(actual: Array, expected: Array, problem: Problem, level: str) -> None:
    eps = np.finfo(problem.dtype).eps
    np.testing.assert_allclose(actual, expected, rtol=2 * eps, atol=tolerance(problem, level))


@levels
@dtypes
@forms
@variants
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_log_sum_exp(
    level: str, dtype: type, bounded: bool, variant: str, shape: tuple[int, ...]
) -> None:
    problem = Problem(shape, dtype)
    vary(problem, variant)
    before = problem.dots.copy()
    found = Pass(problem, level, problem.stat()).reduce(bounded)
    np.testing.assert_array_equal(problem.dots, before)
    assert np.isfinite(found.shifts).tolist() == [bounded]
    y = problem.scores()
    for axis, bits, stats in ((1, found.row_bits, found.rows), (0, found.col_bits, found.cols)):
        assert_lse(bits[0], log2_sum(y, problem.keep, axis), problem, level)
        np.testing.assert_array_equal(stats[0], (bits[0] * np.log(2)).astype(dtype))


@levels
@dtypes
@forms
@pytest.mark.parametrize("sides", [ROWS, COLS])
@pytest.mark.parametrize("variant", ["plain", "everything"])
def test_one_side_equals_both(
    level: str, dtype: type, bounded: bool, sides: tuple[bool, bool], variant: str
) -> None:
    problem = Problem(SHAPES[3], dtype)
    vary(problem, variant)
    both, one = (
        Pass(problem, level, problem.stat(), sides=wanted).reduce(bounded)
        for wanted in (BOTH, sides)
    )
    pairs = (one.row_bits, both.row_bits) if sides[0] else (one.col_bits, both.col_bits)
    assert_lse(pairs[0][0], pairs[1][0], problem, level)


@dataclass
class Backward:
    """Gradients and log-sum-exps of a stat, a few of them of empty rows and columns."""

    row_grad: Array
    col_grad: Array
    row_bits: Array
    col_bits: Array

    @staticmethod
    def of(problem: Problem) -> Backward:
        y = problem.scores()
        row_bits, col_bits = (log2_sum(y, problem.keep, axis) for axis in (1, 0))
        for bits in (row_bits, col_bits):
            bits[::5] = -np.inf
        return Backward(problem.uniform(problem.n), problem.uniform(problem.m), row_bits, col_bits)

    def weights(self, problem: Problem, sides: tuple[bool, bool] = BOTH) -> Array:
        """What G should be."""
        y = problem.scores()
        rows, cols = (
            np.where(np.isneginf(bits), 0.0, np.exp2(y - np.where(np.isneginf(bits), 0.0, bits)))
            * grad.astype(np.float64)
            for bits, grad in (
                (self.row_bits[:, None], self.row_grad[:, None]),
                (self.col_bits, self.col_grad),
            )
        )
        return np.where(problem.keep, sides[0] * rows + sides[1] * cols, 0.0)


def weigh(
    run: Pass,
    *backward: Backward,
    sides: tuple[bool, bool] = BOTH,
    shifts: Array | None = None,
    in_place: bool = False,
    lines: tuple[Array | None, Array | None] = (None, None),
) -> Array:
    """G for the gradients of these sides."""
    rows, cols = (list(backward) if wanted else [] for wanted in sides)
    return run.weights(
        ([b.row_grad for b in rows], [b.col_grad for b in cols]),
        ([b.row_bits for b in rows], [b.col_bits for b in cols]),
        shifts,
        in_place,
        lines,
    )


def assert_weights(actual: Array, expected: Array, problem: Problem, level: str) -> None:
    bound = tolerance(problem, level)
    np.testing.assert_allclose(
        actual, expected, rtol=8 * bound, atol=bound * np.abs(expected).max()
    )
    assert (actual[~problem.keep] == 0).all()


@levels
@dtypes
@forms
@variants
@all_sides
@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
def test_softmax_weights(
    level: str,
    dtype: type,
    bounded: bool,
    variant: str,
    sides: tuple[bool, bool],
    shape: tuple[int, ...],
) -> None:
    problem = Problem(shape, dtype)
    vary(problem, variant)
    backward, shifts = Backward.of(problem), np.array([7.25 if bounded else np.nan])
    expected = backward.weights(problem, sides)
    # A side without a gradient, and one that is not reduced at all.
    for reduced in (BOTH, sides):
        run = Pass(problem, level, problem.stat(), sides=reduced)
        separate, in_place = (
            weigh(run, backward, sides=sides, shifts=shifts, in_place=alias)
            for alias in (False, True)
        )
        assert_weights(separate, expected, problem, level)
        np.testing.assert_array_equal(separate, in_place)


@levels
@dtypes
def test_log_sum_exps_add_up(level: str, dtype: type) -> None:
    """Of three, the second in the general form."""
    problem = Problem(SHAPES[3], dtype)
    stats, parts, expected = [], [], np.zeros((problem.n, problem.m))
    lses = []
    for _ in range(3):
        problem.keep, problem.holes = np.ones_like(problem.keep), []
        problem.add_hole()
        stats.append(problem.stat())
        part = Backward.of(problem)
        # Of one sign, so that the row sums are not rounded more than G.
        part.row_grad, part.col_grad = np.abs(part.row_grad), np.abs(part.col_grad)
        parts.append(part)
        expected += parts[-1].weights(problem)
        lses.append(log2_sum(problem.scores(), problem.keep, 1))
    run = Pass(problem, level, *stats)
    for actual, lse in zip(run.reduce().row_bits, lses, strict=True):
        assert_lse(actual, lse, problem, level)
    problem.keep[:] = True
    shifts = np.array([7.25, np.nan, -3.0])
    for in_place in (False, True):
        actual = weigh(run, *parts, shifts=shifts, in_place=in_place)
        assert_weights(actual, expected, problem, level)


@levels
@dtypes
@forms
def test_a_factor_and_lines(level: str, dtype: type, bounded: bool) -> None:
    """What kept pairs have beside the powers of the last stat: a number a row, one a column."""
    problem = Problem(SHAPES[3], dtype)
    vary(problem, "equal")
    backward, shifts = Backward.of(problem), np.array([7.25 if bounded else np.nan])
    lines = problem.uniform(problem.n), problem.uniform(problem.m)
    run = Pass(problem, level, problem.stat(factor=-0.5))
    line = np.where(problem.keep, lines[0][:, None].astype(np.float64) + lines[1], 0.0)
    actual = weigh(run, backward, shifts=shifts, lines=lines)
    assert_weights(actual, -0.5 * backward.weights(problem) + line, problem, level)


@levels
@dtypes
@pytest.mark.parametrize("phi", list(PHI))
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "everything"])
def test_pair_sums_and_weights(level: str, dtype: type, phi: int, variant: str) -> None:
    problem = Problem(SHAPES[2], dtype)
    problem.coef_lo[:] = 0
    vary(problem, variant)
    value, slope = PHI[phi]
    term = problem.stat(phi, -0.75)
    x = problem.scores()
    found = Pass(problem, level, term).reduce()
    values = np.where(problem.keep, value(x), 0.0)
    bound = 4 * tolerance(problem, level)
    for axis, actual in ((1, found.rows[0]), (0, found.cols[0])):
        np.testing.assert_allclose(
            actual, values.sum(axis), rtol=bound, atol=bound * np.abs(values).sum(axis).max()
        )
    row_grad, col_grad = problem.uniform(problem.n), problem.uniform(problem.m)
    for sides in (BOTH, ROWS, COLS):
        grads = [row_grad] * sides[0], [col_grad] * sides[1]
        gradient = sides[0] * row_grad[:, None].astype(np.float64) + sides[1] * col_grad
        expected = np.where(problem.keep, -0.75 * slope(x) * gradient, 0.0)
        for in_place in (False, True):
            actual = Pass(problem, level, term).weights(grads, in_place=in_place)
            assert_weights(actual, expected, problem, level)
    two = Pass(problem, level, term, term).weights(([], [col_grad] * 2), in_place=True)
    assert_weights(two, 2 * expected, problem, level)


@levels
@dtypes
@forms
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_are_loud(level: str, dtype: type, bounded: bool, bad: float) -> None:
    problem = Problem(SHAPES[2], dtype)
    hole = np.full(problem.n, -1)
    hole[5] = 7
    problem.add_hole(hole)
    largest = 1.0 if bounded else np.inf
    problem.dots[3, 600] = bad
    problem.dots[5, 7] = bad
    ones, bits = np.ones(problem.n, dtype), np.ones(problem.n)
    for phi in (None, *PHI):
        run = Pass(problem, level, problem.stat(phi))
        sums = run.lowered.sums(*run.call(), largest, 1)
        run.add(sums)
        found = run.settle(sums)
        assert np.flatnonzero(np.isnan(found.rows[0])).tolist() == [3]
        assert np.flatnonzero(np.isnan(found.cols[0])).tolist() == [600]
        shifts = np.array([0.0 if bounded else np.nan])
        g = run.weights(([ones], []), ([bits], []), shifts)
        assert np.argwhere(np.isnan(g)).tolist() == [[3, 600]]


@levels
@dtypes
@forms
def test_kept_out_pairs_give_exactly_nothing(level: str, dtype: type, bounded: bool) -> None:
    """Rows 0 and 2 and column 1 stay empty, whatever they hold; a coefficient may be 0."""
    problem = Problem(SMALL, dtype)
    row_ids, col_ids = np.zeros(problem.n, np.int64), np.zeros(problem.m, np.int64)
    row_ids[[0, 2]] = 5
    col_ids[1] = 9
    same = (EQUAL, problem.slot(row_ids), problem.slot(col_ids))
    problem.set_program([same], row_ids[:, None] == col_ids)
    problem.coef_hi[1] = problem.coef_lo[1] = 0
    problem.dots[[0, 2]] = np.nan
    problem.dots[:, 1] = np.inf
    run = Pass(problem, level, problem.stat())
    sums = run.lowered.sums(*run.call(), 1.0 if bounded else np.inf, 1)
    run.add(sums)
    found = run.settle(sums)
    for bits, stats, empty in (
        (found.row_bits[0], found.rows[0], [0, 2]),
        (found.col_bits[0], found.cols[0], [1]),
    ):
        assert np.flatnonzero(np.isneginf(bits)).tolist() == empty
        assert np.flatnonzero(np.isneginf(stats)).tolist() == empty
        assert np.isfinite(np.delete(bits, empty)).all()
    grads = map(problem.uniform, (problem.n, problem.m))
    backward = Backward(*grads, *found.row_bits, *found.col_bits)
    g = weigh(run, backward, shifts=found.shifts)
    assert (g[[0, 2]] == 0).all()
    assert (g[:, 1] == 0).all()


@levels
@dtypes
def test_general_form_survives_any_range(level: str, dtype: type) -> None:
    """Scores far beyond the exponent range, columns and rows seen in growing and falling order."""
    problem = Problem(SHAPES[3], dtype, scale=3e4)
    found = Pass(problem, level, problem.stat()).reduce(True)
    assert np.isnan(found.shifts).all()
    y = problem.scores()
    eps = np.finfo(dtype).eps
    for axis, actual in ((1, found.row_bits[0]), (0, found.col_bits[0])):
        np.testing.assert_allclose(actual, log2_sum(y, problem.keep, axis), rtol=4 * eps)


@levels
@dtypes
@forms
def test_threads_agree_and_repeat_bitwise(level: str, dtype: type, bounded: bool) -> None:
    problem = Problem((301, 1037, 5, 301, 1037), dtype)
    problem.add_hole()
    backward = Backward.of(problem)
    results: dict[int, list[list[Array]]] = {1: [], 2: []}
    for threads, repeats in ((1, 2), (2, 5)):
        run = Pass(problem, level, problem.stat(), threads=threads)
        for _ in range(repeats):
            found = run.reduce(bounded)
            g = weigh(run, backward, shifts=found.shifts, in_place=True)
            results[threads].append([*found.arrays(), g])
    for runs in results.values():
        for other in runs[1:]:
            for a, b in zip(runs[0], other, strict=True):
                np.testing.assert_array_equal(a, b)
    for a, b in zip(results[1][0], results[2][0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6 if dtype is np.float32 else 1e-13)
