"""The fused C++ passes against an independent fp64 computation in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from native_problem import (
    _C,
    AND,
    BOTH,
    COLS,
    EQUAL,
    INDEX,
    NOT,
    OR,
    OVERLAP,
    PHI,
    RELU,
    ROWS,
    SHAPES,
    SMALL,
    Outputs,
    Problem,
    address,
    dtypes,
    forms,
    levels,
    log2_sum,
    pair_pass,
    softmax_pass,
)


def vary(problem: Problem, variant: str) -> None:
    """Adds one kind of pair selection to a problem."""
    if variant in ("col_offset", "everything"):
        problem.add_col_offset()
    if variant not in ("plain", "col_offset"):
        problem.add_hole()
    if variant in ("two holes", "everything"):
        problem.add_hole()
    if variant == "everything":
        problem.add_class_weights()
    atoms = problem.atoms()
    (at, target), (equal, same), (overlap, shared) = (atoms[k] for k in (INDEX, EQUAL, OVERLAP))
    no, both, either = ((op, 0, 0) for op in (NOT, AND, OR))
    if variant == "equal":
        problem.set_program([equal], same)
    if variant == "overlap":
        problem.set_program([overlap, no], ~shared)
    if variant == "index":
        problem.set_program([at], target)
    if variant == "everything":
        problem.set_program([equal, overlap, at, either, both, no], ~(same & (shared | target)))


VARIANTS = ["plain", "col_offset", "hole", "two holes", "equal", "overlap", "index", "everything"]
variants = pytest.mark.parametrize("variant", VARIANTS)


def tolerance(problem: Problem, level: str) -> float:
    """Absolute, on an exponent of 20 or so; without fma the product is rounded once more."""
    if problem.dtype is np.float64:
        return 1e-13
    return 4e-6 if level == "baseline" else 1e-6


def assert_lse(actual: np.ndarray, expected: np.ndarray, problem: Problem, level: str) -> None:
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
    channel = problem.channel(bounded)
    outputs = Outputs(problem, channel)
    problem.reduce(softmax_pass(problem, level, channel))
    np.testing.assert_array_equal(problem.dots, before)
    y = problem.scores()
    for axis, actual in ((1, outputs.lse()[0]), (0, outputs.lse()[1])):
        assert_lse(actual, log2_sum(y, problem.keep, axis), problem, level)


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
    results = []
    for wanted in (BOTH, sides):
        channel = problem.channel(bounded)
        outputs = Outputs(problem, channel)
        problem.reduce(softmax_pass(problem, level, channel), wanted)
        results.append(outputs)
    both, one = results
    if sides[0]:
        assert_lse(one.lse()[0], both.lse()[0], problem, level)
        assert (one.col_sum == 0).all()
    else:
        assert_lse(one.lse()[1], both.lse()[1], problem, level)
        assert (one.row_sum == 0).all()


def add_gradients(problem: Problem, channel: Any) -> list[np.ndarray]:
    """Random gradients and lses (rows, columns), a few of them 0 at lse = -inf."""
    y = problem.scores()
    gradients = problem.uniform(problem.n), problem.uniform(problem.m)
    lses = [log2_sum(y, problem.keep, axis).astype(problem.dtype) for axis in (1, 0)]
    for gradient, lse in zip(gradients, lses, strict=True):
        gradient[::5] = 0
        lse[::5] = -np.inf
        gradient[np.isinf(lse)] = 0
    channel.row_grad, channel.col_grad = map(address, gradients)
    channel.row_lse, channel.col_lse = map(address, lses)
    problem.owned += [*gradients, *lses]
    return [array.astype(np.float64) for array in (*gradients, *lses)]


def expected_weights(
    problem: Problem, channel: Any, arrays: list[np.ndarray], sides: tuple[bool, bool]
) -> np.ndarray:
    row_grad, col_grad, row_lse, col_lse = arrays
    y = problem.scores()
    shifts = (channel.shift, channel.shift)
    if not channel.bounded:
        shifts = (
            np.where(row_grad == 0, 0.0, row_lse)[:, None],
            np.where(col_grad == 0, 0.0, col_lse),
        )
    rows = sides[0] * row_grad[:, None] * np.exp2(y - shifts[0])
    cols = sides[1] * col_grad * np.exp2(y - shifts[1])
    return np.where(problem.keep, rows + cols, 0.0)


def assert_weights(actual: np.ndarray, expected: np.ndarray, problem: Problem, level: str) -> None:
    bound = tolerance(problem, level)
    np.testing.assert_allclose(
        actual, expected, rtol=8 * bound, atol=bound * np.abs(expected).max()
    )
    assert (actual[~problem.keep] == 0).all()


@levels
@dtypes
@forms
@variants
@pytest.mark.parametrize("sides", [BOTH, ROWS, COLS])
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
    channel = problem.channel(bounded)
    arrays = add_gradients(problem, channel)
    run = softmax_pass(problem, level, channel)
    expected = expected_weights(problem, channel, arrays, sides)
    separate, in_place = (problem.weights(run, sides, alias) for alias in (False, True))
    assert_weights(separate, expected, problem, level)
    np.testing.assert_array_equal(separate, in_place)


@levels
@dtypes
def test_channels_add_up(level: str, dtype: type) -> None:
    problem = Problem(SHAPES[3], dtype)
    channels, expected, lses = [], np.zeros((problem.n, problem.m)), []
    for bounded in (True, False, True):
        problem.keep = np.ones_like(problem.keep)
        problem.holes = []
        problem.add_hole()
        channel = problem.channel(bounded)
        problem.owned += problem.holes
        expected += expected_weights(problem, channel, add_gradients(problem, channel), BOTH)
        lses.append((Outputs(problem, channel), log2_sum(problem.scores(), problem.keep, 1)))
        channels.append(channel)
    run = softmax_pass(problem, level, *channels)
    problem.reduce(run)
    for outputs, lse in lses:
        assert_lse(outputs.lse()[0], lse, problem, level)
    problem.keep[:] = True
    for in_place in (False, True):
        assert_weights(problem.weights(run, BOTH, in_place), expected, problem, level)


@levels
@dtypes
@pytest.mark.parametrize("phi", list(PHI))
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "everything"])
def test_pair_sums_and_weights(level: str, dtype: type, phi: int, variant: str) -> None:
    problem = Problem(SHAPES[2], dtype)
    vary(problem, variant)
    value, slope = PHI[phi]
    term = problem.term(phi, factor=-0.75)
    outputs = Outputs(problem, term)
    x = problem.scores()
    problem.reduce(pair_pass(problem, level, term))
    values = np.where(problem.keep, value(x), 0.0)
    bound = 4 * tolerance(problem, level)
    for axis, actual in ((1, outputs.row_sum), (0, outputs.col_sum)):
        np.testing.assert_allclose(
            actual, values.sum(axis), rtol=bound, atol=bound * np.abs(values).sum(axis).max()
        )
    row_grad, col_grad = problem.uniform(problem.n), problem.uniform(problem.m)
    for sides in (BOTH, ROWS, COLS):
        term.row_grad, term.col_grad = address(row_grad), address(col_grad)
        gradient = sides[0] * row_grad[:, None].astype(np.float64) + sides[1] * col_grad
        expected = np.where(problem.keep, -0.75 * slope(x) * gradient, 0.0)
        for in_place in (False, True):
            actual = problem.weights(pair_pass(problem, level, term), sides, in_place)
            assert_weights(actual, expected, problem, level)
    two = problem.weights(pair_pass(problem, level, term, term), COLS, True)
    assert_weights(two, 2 * expected, problem, level)


@levels
@dtypes
@pytest.mark.parametrize("variant", ["plain", "everything"])
@pytest.mark.parametrize("sides", [BOTH, ROWS, COLS])
def test_counts(level: str, dtype: type, variant: str, sides: tuple[bool, bool]) -> None:
    problem = Problem(SHAPES[3], dtype)
    vary(problem, variant)
    y = problem.scores()
    row_threshold, col_threshold = problem.uniform(problem.n, 9), problem.uniform(problem.m, 9)
    expected = (
        (problem.keep & (y > row_threshold[:, None])).sum(1) * sides[0],
        (problem.keep & (y > col_threshold)).sum(0) * sides[1],
    )
    runs = [(softmax_pass, problem.channel(True)), (softmax_pass, problem.channel(False))]
    if variant == "plain":
        problem.coef_lo[:] = 0
        runs.append((pair_pass, problem.term(RELU)))
    for make, descriptor in runs:
        counts = np.zeros(problem.n, np.int64), np.zeros(problem.m, np.int64)
        descriptor.row_threshold, descriptor.col_threshold = map(
            address, (row_threshold, col_threshold)
        )
        descriptor.row_count, descriptor.col_count = map(address, counts)
        problem.reduce(make(problem, level, descriptor), sides)
        for actual, wanted in zip(counts, expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)


@levels
@dtypes
@forms
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_are_loud(level: str, dtype: type, bounded: bool, bad: float) -> None:
    problem = Problem(SHAPES[2], dtype)
    hole = np.full(problem.n, -1)
    hole[5] = 7
    problem.holes = [hole]
    problem.dots[3, 600] = bad
    problem.dots[5, 7] = bad
    channel = problem.channel(bounded)
    runs = [(softmax_pass, channel), *((pair_pass, problem.term(phi)) for phi in PHI)]
    ones = np.ones(problem.m, dtype)
    for make, descriptor in runs:
        outputs = Outputs(problem, descriptor)
        descriptor.row_grad = address(ones)
        if make is softmax_pass:
            descriptor.row_lse = address(ones)
        run = make(problem, level, descriptor)
        problem.reduce(run)
        assert np.flatnonzero(np.isnan(outputs.row_sum)).tolist() == [3]
        assert np.flatnonzero(np.isnan(outputs.col_sum)).tolist() == [600]
        assert np.argwhere(np.isnan(problem.weights(run, ROWS))).tolist() == [[3, 600]]


@levels
@dtypes
@forms
def test_kept_out_pairs_give_exactly_nothing(level: str, dtype: type, bounded: bool) -> None:
    """Rows 0 and 2 and column 1 stay empty, whatever they hold; a coefficient may be 0."""
    problem = Problem(SMALL, dtype)
    row_ids, col_ids = np.zeros(problem.n, np.int64), np.zeros(problem.m, np.int64)
    row_ids[[0, 2]] = 5
    col_ids[1] = 9
    same = (EQUAL, address(row_ids), address(col_ids))
    problem.set_program([same], row_ids[:, None] == col_ids)
    problem.coef_hi[1] = problem.coef_lo[1] = 0
    problem.dots[[0, 2]] = np.nan
    problem.dots[:, 1] = np.inf
    channel = problem.channel(bounded)
    outputs = Outputs(problem, channel)
    run = softmax_pass(problem, level, channel)
    problem.reduce(run)
    assert (outputs.row_sum[[0, 2]] == 0).all()
    assert outputs.col_sum[1] == 0
    assert np.isfinite(outputs.row_sum).all()
    if not bounded:
        assert (outputs.row_shift[[0, 2]] == -np.inf).all()
        assert outputs.col_shift[1] == -np.inf
    add_gradients(problem, channel)
    g = problem.weights(run)
    assert (g[[0, 2]] == 0).all()
    assert (g[:, 1] == 0).all()


@levels
@dtypes
def test_general_form_survives_any_range(level: str, dtype: type) -> None:
    """Scores far beyond the exponent range, columns and rows seen in growing and falling order."""
    problem = Problem(SHAPES[3], dtype, scale=3e4)
    channel = problem.channel(False)
    outputs = Outputs(problem, channel)
    problem.reduce(softmax_pass(problem, level, channel))
    y = problem.scores()
    eps = np.finfo(dtype).eps
    for axis, actual in ((1, outputs.lse()[0]), (0, outputs.lse()[1])):
        np.testing.assert_allclose(actual, log2_sum(y, problem.keep, axis), rtol=4 * eps)


@levels
@dtypes
@forms
def test_threads_agree_and_repeat_bitwise(level: str, dtype: type, bounded: bool) -> None:
    problem = Problem((301, 1037, 5, 301, 1037), dtype)
    problem.add_hole()
    channel = problem.channel(bounded)
    add_gradients(problem, channel)
    run = softmax_pass(problem, level, channel)
    results: dict[int, list[list[np.ndarray]]] = {1: [], 2: []}
    for threads, repeats in ((1, 2), (2, 5)):
        for _ in range(repeats):
            outputs = Outputs(problem, channel)
            problem.reduce(run, BOTH, threads)
            results[threads].append([*outputs.arrays(), problem.weights(run, BOTH, True, threads)])
    for runs in results.values():
        for other in runs[1:]:
            for a, b in zip(runs[0], other, strict=True):
                np.testing.assert_array_equal(a, b)
    for a, b in zip(results[1][0], results[2][0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6 if dtype is np.float32 else 1e-13)


def test_levels_end_with_baseline() -> None:
    assert _C.levels()[-1] == "baseline"
    with pytest.raises(ValueError, match=r"level: expected one of .*baseline, got sse9"):
        _C.SoftmaxPass(False, "sse9")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([(NOT, 0, 0)], "lacks its operands"),
        ([(INDEX, 0, 0), (AND, 0, 0)], "lacks its operands"),
        ([(INDEX, 0, 0)] * 2, "more than one result"),
        ([(INDEX, 0, 0)] * 33, "more than 32 operands"),
        ([(17, 0, 0)], "unknown op 17"),
    ],
)
def test_malformed_programs_are_refused(program: list[Any], message: str) -> None:
    problem = Problem(SMALL, np.float32)
    problem.program = program
    run = softmax_pass(problem, "baseline", problem.channel(True))
    with pytest.raises(ValueError, match=message):
        problem.reduce(run)
