"""What a call of the compiled passes is made of: codes, checks, shifts, positives, strips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contrastile.problem import AtMost, Equal, Index, Less, Overlap, Phi, Within
from contrastile.problem.pairs import Op
from native_problem import (
    _C,
    AND,
    BOTH,
    EQUAL,
    INDEX,
    LOG2E,
    NOT,
    RELU,
    ROWS,
    SHAPES,
    SMALL,
    Pass,
    Problem,
    Stat,
    Steps,
    address,
    addresses,
    all_sides,
    dtypes,
    forms,
    levels,
    log2_sum,
    vary,
)

PLAIN: Stat = (None, 1.0, [], [], [], -1, -1)


def test_codes_are_those_of_python() -> None:
    names = {Index: "INDEX", Equal: "EQUAL", Overlap: "OVERLAP"}
    names |= {Less: "LESS", AtMost: "AT_MOST", Within: "WITHIN"}
    operands = {Op.NOT: 1, Op.AND: 2, Op.OR: 2}
    vectors = {Op[name]: 1 if kind is Index else 2 for kind, name in names.items()}
    vectors |= {Op.ROW_ABOVE: 1, Op.COL_ABOVE: 1}
    assert _C.ops == {op.name: (int(op), vectors.get(op, 0), operands.get(op, 0)) for op in Op}
    assert _C.phis == {phi.name: int(phi) for phi in Phi}


def test_levels_end_with_baseline() -> None:
    assert _C.levels()[-1] == "baseline"
    with pytest.raises(ValueError, match=r"level: expected one of .*baseline, got sse9"):
        _C.Lowered([PLAIN], *BOTH, False, False, False, "sse9")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([(NOT, -1, -1)], "lacks its operands"),
        ([(INDEX, 0, -1), (AND, -1, -1)], "lacks its operands"),
        ([(INDEX, 0, -1)] * 2, "more than one result"),
        ([(INDEX, 0, -1)] * 33, "more than 32 operands"),
        ([(17, 0, 0)], "unknown op 17"),
        ([(-1, 0, 0)], "unknown op -1"),
        ([(INDEX, -1, -1)], "no tensor has slot -1"),
        ([(EQUAL, 0, -1)], "no tensor has slot -1"),
        ([(int(Op.ROW_ABOVE), -1, 0)], "no tensor has slot -1"),
        ([(int(Op.COL_ABOVE), 0, -1)], "planes: none is -1"),
    ],
)
def test_malformed_programs_are_refused(program: Steps, message: str) -> None:
    for stat in (
        (None, 1.0, [], program, [], -1, -1),
        (None, 1.0, [], [], [(program, 1.0)], -1, -1),
    ):
        with pytest.raises(ValueError, match=message):
            _C.Lowered([stat], *BOTH, False, False, False, "baseline")


def test_planes_are_counted() -> None:
    above = (None, 1.0, [], [(int(Op.ROW_ABOVE), 0, 1)], [], -1, -1)
    lowered = _C.Lowered([above], *BOTH, False, False, False, "baseline")
    with pytest.raises(ValueError, match="planes: fewer than the problem reads"):
        lowered.sums([0], [(1.0, 1.0, 0.0, 0, 0)], 1, 1, 1.0, 1, [0])


def test_malformed_problems_are_refused() -> None:
    for stats, gaps, message in (
        ([], False, "there is none"),
        ([PLAIN, (0, *PLAIN[1:])], False, "log-sum-exps beside sums"),
        ([(77, *PLAIN[1:])], False, "unknown function 77"),
        ([(0, *PLAIN[1:])], True, "no log-sum-exp"),
        ([(None, 1.0, [-1], [], [], -1, -1)], False, "no tensor has slot -1"),
    ):
        with pytest.raises(ValueError, match=message):
            _C.Lowered(stats, *BOTH, False, gaps, False, "baseline")
    lowered = _C.Lowered([(None, 1.0, [3], [], [], -1, -1)], *BOTH, False, False, False, "baseline")
    with pytest.raises(ValueError, match="fewer than the problem reads"):
        lowered.sums([0, 0, 0], [(1.0, 1.0, 0.0, 0, 0)], 1, 1, 1.0, 1)
    with pytest.raises(ValueError, match="one set a stat"):
        lowered.sums([0, 0, 0, 0], [], 1, 1, 1.0, 1)
    for given in ([0.0] * 4, ["?"] * 4, [-1] * 4):
        with pytest.raises(TypeError):
            lowered.sums(given, [(1.0, 1.0, 0.0, 0, 0)], 1, 1, 1.0, 1)
    for number in (None, "?"):
        with pytest.raises(TypeError):
            lowered.sums([0] * 4, [(1.0, number, 0.0, 0, 0)], 1, 1, 1.0, 1)


def test_tensors_are_taken_as_they_are() -> None:
    """As addresses, None for none."""
    n = 3
    dots, columns = torch.randn(n, n), torch.tensor([2, -1, 0])
    found = []
    for give in (lambda tensor: tensor, torch.Tensor.data_ptr):
        coefs = torch.full((n,), 2.0)
        for coef in (2.0, give(coefs)):
            lowered = _C.Lowered([PLAIN], *ROWS, False, False, False, "baseline")
            sums = lowered.sums([], [(1.0, coef, 0.0, None, None)], n, n, 9.0, 1)
            taken, stat = torch.zeros(n), torch.empty(n)
            bits, shifts = (torch.empty(length, dtype=torch.float64) for length in (n, 1))
            sums.take_positives(give(columns), give(taken))
            sums.add(give(dots), n, 0, n, 0, n, False)
            sums.settle(0, n, [give(stat)], [give(bits)], (), (), give(shifts))
            found.append((taken, stat, bits, shifts))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    assert torch.equal(found[0][0], torch.stack([dots[0, 2], torch.tensor(0.0), dots[2, 0]]))


def shift_of(
    problem: Problem, *stats: Stat, largest: float, coef: float = 2.0, gaps: bool = False
) -> list[float]:
    """Of a call with one coefficient for all rows."""
    run = Pass(problem, "baseline", *stats, gaps=gaps)
    offsets = address(problem.row_offset), address(problem.col_offset)
    run.arguments = [(1.0, coef, 0.0, *offsets)] * len(stats)
    sums = run.lowered.sums(*run.call(), largest, 1)
    if gaps:
        sums.sum_scores(0, 0, 0)
    run.add(sums)
    shifts: list[float] = run.settle(sums).shifts.tolist()
    return shifts


@dtypes
def test_the_fixed_shift(dtype: type) -> None:
    """Half the largest exponent, but within 100 bits of both ends; as fp32 holds it."""
    problem = Problem((3, 4, 0, 3, 4), dtype)
    problem.row_offset = np.array([-3.0, 0.0, 5.0], dtype)
    for largest in (0.0, 20.0, 40.0):
        reach = 2.0 * largest * 1.001
        low, high = -3.0 - reach, 5.0 + reach
        half = min(high / 2, low + 100.0)
        assert shift_of(problem, PLAIN, largest=largest) == [np.float32(half)]
        # The last, whose gap is asked for, has it at its largest exponent.
        tops = shift_of(problem, PLAIN, PLAIN, largest=largest, gaps=True)
        assert tops == [np.float32(half), np.float32(min(high, low + 100.0))]
    problem.col_offset = np.array([0.0, 0.0, 130.0, 0.0], dtype)
    assert shift_of(problem, PLAIN, largest=10.0) == [np.float32(-3.0 - 2 * 10 * 1.001 + 100.0)]
    problem.col_offset[2] = 180.0
    assert np.isnan(shift_of(problem, PLAIN, largest=10.0)).all()
    problem.col_offset = None
    classes: Stat = (None, 1.0, [], [], [([], 10.0), ([], -2.0)], -1, -1)
    exact = (5.0 + 10.0 * LOG2E) / 2
    np.testing.assert_allclose(shift_of(problem, classes, largest=0.0), exact, rtol=1e-7)


@dtypes
def test_no_shift_is_fixed_without_a_bound(dtype: type) -> None:
    problem = Problem((3, 4, 0, 3, 4), dtype)
    for largest in (50.0, np.inf, np.nan):
        assert np.isnan(shift_of(problem, PLAIN, largest=largest)).all()
    assert np.isnan(shift_of(problem, PLAIN, largest=1.0, coef=np.nan)).all()
    for bad in (np.nan, np.inf, -np.inf):
        problem.row_offset[1] = bad
        assert np.isnan(shift_of(problem, PLAIN, largest=1.0)).all()


@dtypes
def test_the_only_block_bounds_itself(dtype: type) -> None:
    problem = Problem((3, 4, 2, 3, 4), dtype)
    problem.row_offset[:] = 0
    problem.dots[1, 2] = -7.0
    # Beyond the block.
    problem.dots[0, 5] = 1000.0
    assert shift_of(problem, PLAIN, largest=-1.0) == shift_of(problem, PLAIN, largest=7.0)
    for bad in (np.nan, np.inf):
        problem.dots[1, 2] = bad
        assert np.isnan(shift_of(problem, PLAIN, largest=-1.0)).all()


@levels
@dtypes
@pytest.mark.parametrize("variant", ["plain", "everything"])
@all_sides
def test_counts(level: str, dtype: type, variant: str, sides: tuple[bool, bool]) -> None:
    problem = Problem(SHAPES[3], dtype)
    vary(problem, variant)
    y = problem.scores()
    limits = problem.uniform(problem.n, 9), problem.uniform(problem.m, 9)
    expected = (
        (problem.keep & (y > limits[0][:, None])).sum(1) * sides[0],
        (problem.keep & (y > limits[1])).sum(0) * sides[1],
    )
    runs = [(problem.stat(), True), (problem.stat(), False)]
    if variant == "plain":
        problem.coef_lo[:] = 0
        runs.append((problem.stat(RELU), True))
    for stat, bounded in runs:
        run = Pass(problem, level, stat, sides=sides)
        counts = np.zeros(problem.n, np.int64), np.zeros(problem.m, np.int64)
        sums = run.sums(bounded)
        sums.count(*(address(x) for side in zip(limits, counts, strict=True) for x in side))
        run.add(sums)
        for actual, wanted in zip(counts, expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)


@levels
@dtypes
@pytest.mark.parametrize("scaled", [False, True])
def test_sums_of_scores(level: str, dtype: type, scaled: bool) -> None:
    """Of the dot products that the last stat keeps, without its offsets."""
    problem = Problem(SHAPES[3], dtype)
    problem.add_col_offset()
    vary(problem, "equal")
    scale = problem.uniform(problem.n) if scaled else None
    run = Pass(problem, level, problem.stat(), problem.stat(), gaps=True)
    found = np.zeros(problem.n), np.zeros(problem.m)
    sums = run.sums(True)
    sums.sum_scores(address(scale), *map(address, found))
    run.add(sums)
    values = np.where(problem.keep, problem.dots[:, : problem.m].astype(np.float64), 0.0)
    values = values if scale is None else values * scale[:, None]
    bound = np.finfo(dtype).eps if scaled else 1e-15
    for axis, actual in ((1, found[0]), (0, found[1])):
        limit = bound * np.abs(values).sum(axis).max()
        np.testing.assert_allclose(actual, values.sum(axis), rtol=0, atol=limit)


@dtypes
def test_positives_are_taken_and_put(dtype: type) -> None:
    problem = Problem(SHAPES[3], dtype)
    columns = problem.rng.integers(-1, problem.m, problem.n)
    problem.add_hole(columns)
    run = Pass(problem, "baseline", problem.stat(), sides=ROWS)
    there, own = columns >= 0, np.arange(problem.n)
    taken = np.full(problem.n, 5.0, dtype)
    sums = run.sums(True)
    sums.take_positives(address(columns), address(taken))
    run.add(sums)
    np.testing.assert_array_equal(taken, np.where(there, problem.dots[own, columns], 5.0))
    grad, taken = problem.uniform(problem.n), np.where(there, taken, 0).astype(dtype)
    weights = run.lowered.weights(
        *run.call(), [], [], [], [], address(np.array([0.0])), 0, problem.n, 1
    )
    product = np.empty(problem.n)
    weights.sum_products(address(product))
    weights.put_positives(address(columns), address(grad), address(taken))
    out = np.full((problem.n, problem.m), np.nan, dtype)
    for r, rows, c, cols in problem.tiles():
        dots = problem.dots[r:, c:]
        place = address(dots), problem.dots.shape[1], address(out[r:, c:]), problem.m
        weights.weigh(*place, r, rows, c, cols, False)
    expected = np.zeros_like(out)
    expected[own[there], columns[there]] = grad[there]
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_allclose(product, grad.astype(float) * taken, rtol=1e-12)


@dtypes
@forms
def test_a_triangle_reduces_its_mirror_image(dtype: type, bounded: bool) -> None:
    """Blocks on and above the diagonal stand for all of a symmetric matrix."""
    n, size = 70, 25
    problem = Problem((n, n, 0, size, size), dtype)
    problem.dots = np.ascontiguousarray((problem.dots + problem.dots.T) / 2)
    problem.row_offset[:], problem.coef_lo[:], problem.coef_hi[:] = 0, 0, 11.0
    problem.add_hole(np.arange(n))
    lowered = _C.Lowered(
        [problem.stat()], True, False, True, False, dtype is np.float64, "baseline"
    )
    call = Pass(problem, "baseline", problem.stat()).call()
    # Each row's positive, some of which lie below the diagonal only.
    columns = np.random.default_rng(3).permutation(n)
    taken, grad = np.zeros(n, dtype), problem.uniform(n)
    sums = lowered.sums(*call, 1.0 if bounded else np.inf, 1)
    sums.take_positives(address(columns), address(taken))
    tiles = [t for t in problem.tiles() if t[2] >= t[0]]
    for r, rows, c, cols in tiles:
        sums.add(address(problem.dots[r:, c:]), n, r, rows, c, cols, c > r)
    stats, bits, shifts = np.empty(n, dtype), np.empty(n), np.empty(1)
    sums.settle(0, n, *([address(x)] for x in (stats, bits)), [], [], address(shifts))
    exact = log2_sum(problem.scores(), problem.keep, 1)
    np.testing.assert_allclose(bits, exact, rtol=0, atol=5e-6 if dtype is np.float32 else 1e-13)
    np.testing.assert_array_equal(taken, problem.dots[np.arange(n), columns])

    row_grad, product = problem.uniform(n), np.empty(n)
    sides: list[Any] = [[address(bits)], [address(row_grad)], [], []]
    weights = lowered.weights(*call, *sides, address(shifts), 0, n, 1)
    weights.sum_products(address(product))
    weights.put_positives(address(columns), address(grad), address(taken))
    g = np.zeros((n, n))
    total = 0.0
    for r, rows, c, cols in tiles:
        out = np.empty((rows, cols), dtype)
        dots = problem.dots[r:, c:]
        weights.weigh(address(dots), n, address(out), cols, r, rows, c, cols, c > r)
        g[r : r + rows, c : c + cols] = out
        total += (0.5 if c == r else 1.0) * (out * dots[:rows, :cols].astype(float)).sum()
        if c > r:
            g[c : c + cols, r : r + rows] = out.T
    powers = np.where(problem.keep, np.exp2(problem.scores() - exact[:, None]), 0.0)
    expected = powers * row_grad[:, None]
    expected[np.arange(n), columns] += grad
    expected = expected + expected.T
    np.testing.assert_allclose(g, expected, rtol=0, atol=2e-5 if dtype is np.float32 else 1e-12)
    np.testing.assert_allclose(product.sum(), total, rtol=1e-6)


@dtypes
@forms
def test_strips_are_settled_one_by_one(dtype: type, bounded: bool) -> None:
    """Only their own entries are written, and the last call has them all."""
    problem = Problem(SMALL, dtype)
    run = Pass(problem, "baseline", problem.stat(), sides=ROWS)
    whole = run.reduce(bounded)
    sums, dots = run.sums(bounded), problem.dots
    seen = 0
    for r, rows, c, cols in problem.tiles():
        sums.add(address(dots[r:, c:]), dots.shape[1], r, rows, c, cols, False)
        if c + cols < problem.m:
            continue
        seen = r + rows
        strip = run.settle(sums, r, seen)
        for found, all_rows in zip(strip.arrays(), whole.arrays(), strict=True):
            own = slice(None) if found is strip.shifts else slice(r, seen)
            np.testing.assert_array_equal(found[own], all_rows[own])
            assert np.isnan(np.delete(found, np.r_[own])).all() or found is strip.shifts
    assert seen == problem.n
    for found, all_rows in zip(run.settle(sums).arrays(), whole.arrays(), strict=True):
        np.testing.assert_array_equal(found, all_rows)


@dtypes
def test_weights_of_a_strip_read_its_rows_alone(dtype: type) -> None:
    problem = Problem(SMALL, dtype)
    run = Pass(problem, "baseline", problem.stat(), sides=ROWS)
    whole = run.reduce()
    grad = problem.uniform(problem.n)
    expected = run.weights(([grad], []), (whole.row_bits, []), whole.shifts)
    begin, rows = 2, 3
    bits = [np.full(problem.n, np.nan)]
    partial = np.full(problem.n, np.nan, dtype)
    own = slice(begin, begin + rows)
    bits[0][own], partial[own] = whole.row_bits[0][own], grad[own]
    weights = run.lowered.weights(
        *run.call(), addresses(bits), [address(partial)], [], [], address(whole.shifts),
        begin, begin + rows, 1,
    )  # fmt: skip
    out = np.empty((rows, problem.m), dtype)
    place = address(problem.dots[begin:]), problem.dots.shape[1], address(out), problem.m
    weights.weigh(*place, begin, rows, 0, problem.m, False)
    np.testing.assert_array_equal(out, expected[own])
