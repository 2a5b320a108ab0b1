"""Problems for the fused C++ passes, and what they should give, in numpy and fp64."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

_C = pytest.importorskip("contrastile._C", reason="the native extension is not built")

INDEX, EQUAL, OVERLAP, NOT, AND, OR = range(6)
SOFTPLUS, RELU, IDENTITY, SQUARE, SIGMOID = range(5)
BOTH, ROWS, COLS = (True, True), (True, False), (False, True)
LOG2E = np.log2(np.e)

# Rows, columns, extra leading dimension, tile rows, tile columns: off every power of two.
SMALL = (7, 5, 3, 4, 3)
SHAPES = [(1, 1, 0, 1, 1), SMALL, (67, 1037, 11, 33, 1037), (130, 150, 1, 40, 61)]

levels = pytest.mark.parametrize("level", _C.levels())
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
all_sides = pytest.mark.parametrize("sides", [BOTH, ROWS, COLS])
forms = pytest.mark.parametrize("bounded", [True, False], ids=["bounded", "general"])

Array = np.ndarray
Steps = list[tuple[int, int, int]]
# As engine.arguments.Argument: the coefficient as numbers, or as addresses; addresses of offsets.
Argument = tuple[float, float, float, int, int]
# As problem.spec.Stat.
Stat = tuple[int | None, float, list[int], Steps, list[tuple[Steps, float]], int, int]


def address(array: Array | None) -> int:
    return 0 if array is None else array.ctypes.data


def addresses(arrays: list[Array]) -> list[int]:
    return [address(array) for array in arrays]


class Problem:
    """Random dots, coefficients, offsets and kept pairs; owns what calls point to."""

    def __init__(self, shape: tuple[int, ...], dtype: type, seed: int = 0, scale: float = 20.0):
        self.n, self.m, extra, self.tile_rows, self.tile_cols = shape
        self.dtype = dtype
        self.rng = np.random.default_rng(seed)
        self.dots = self.uniform((self.n, self.m + extra))
        exact = self.rng.uniform(0.5, 1.0, self.n) * scale
        self.coef_hi = exact.astype(dtype)
        self.coef_lo = (exact - self.coef_hi).astype(dtype)
        self.row_offset = self.uniform(self.n, 3.0)
        self.col_offset: Array | None = None
        self.tensors: list[Array] = []
        self.holes: list[int] = []
        self.program: Steps = []
        self.classes: list[tuple[Steps, float]] = []
        self.class_bits = np.zeros((self.n, self.m))
        self.keep = np.ones((self.n, self.m), bool)

    def uniform(self, size: Any, bound: float = 1.0) -> Array:
        return self.rng.uniform(-bound, bound, size).astype(self.dtype)

    def slot(self, tensor: Array) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def atoms(self) -> dict[int, tuple[tuple[int, int, int], Array]]:
        """One instruction of every leaf op, and the pairs where it is true."""
        a, b = self.rng.integers(0, 3, self.n), self.rng.integers(0, 3, self.m)
        bits_a, bits_b = (self.rng.integers(0, 8, count) << 40 for count in (self.n, self.m))
        index = self.rng.integers(-1, self.m, self.n)
        equal, overlap = ((self.slot(x), self.slot(y)) for x, y in ((a, b), (bits_a, bits_b)))
        return {
            INDEX: ((INDEX, self.slot(index), -1), np.arange(self.m) == index[:, None]),
            EQUAL: ((EQUAL, *equal), a[:, None] == b),
            OVERLAP: ((OVERLAP, *overlap), (bits_a[:, None] & bits_b) != 0),
        }

    def add_col_offset(self) -> None:
        self.col_offset = self.uniform(self.m, 4.0)

    def add_hole(self, columns: Array | None = None) -> None:
        hole = self.rng.integers(-1, self.m, self.n) if columns is None else columns
        self.holes.append(self.slot(hole))
        self.keep[np.flatnonzero(hole >= 0), hole[hole >= 0]] = False

    def set_program(self, steps: Steps, where: Array) -> None:
        self.program, self.keep = steps, self.keep & where

    def add_classes(self) -> None:
        atoms = self.atoms()
        (equal, same), (overlap, shared) = atoms[EQUAL], atoms[OVERLAP]
        self.classes = [([equal], 1.0), ([overlap, (NOT, -1, -1)], -0.4), ([], 0.2)]
        self.class_bits = (1.0 * same - 0.4 * ~shared + 0.2) * LOG2E

    def scores(self) -> Array:
        coef = self.coef_hi.astype(np.float64) + self.coef_lo
        with np.errstate(invalid="ignore"):
            y = self.dots[:, : self.m].astype(np.float64) * coef[:, None] + self.row_offset[:, None]
        return y + self.class_bits + (0.0 if self.col_offset is None else self.col_offset)

    def stat(self, phi: int | None = None, factor: float = 1.0) -> Stat:
        return phi, factor, self.holes, self.program, self.classes, -1, -1

    def argument(self) -> Argument:
        vectors = self.coef_hi, self.coef_lo, self.row_offset, self.col_offset
        return 1.0, *map(address, vectors)

    def tiles(self) -> list[tuple[int, int, int, int]]:
        corners = itertools.product(
            range(0, self.n, self.tile_rows), range(0, self.m, self.tile_cols)
        )
        return [
            (r, min(self.tile_rows, self.n - r), c, min(self.tile_cols, self.m - c))
            for r, c in corners
        ]

    def assert_product(self, product: Array, weights: Array) -> None:
        """They are the row sums of G o dots, in all rows where no product overflows."""
        dots = np.where(self.keep, self.dots[:, : self.m].astype(np.float64), 0.0)
        with np.errstate(invalid="ignore", over="ignore"):
            finite = (np.abs(weights * dots) < np.finfo(self.dtype).max).all(axis=1)
        terms = weights[finite] * dots[finite]
        roundings = np.finfo(self.dtype).eps + self.m * np.finfo(np.float64).eps
        limit = 1e-12 + 4 * roundings * np.abs(terms).sum(1)
        assert (np.abs(product[finite] - terms.sum(1)) <= limit).all()


def vary(problem: Problem, variant: str) -> None:
    """Adds one kind of pair selection to a problem."""
    if variant in ("col_offset", "everything"):
        problem.add_col_offset()
    if variant not in ("plain", "col_offset"):
        problem.add_hole()
    if variant in ("two holes", "everything"):
        problem.add_hole()
    if variant == "everything":
        problem.add_classes()
    atoms = problem.atoms()
    (at, target), (equal, same), (overlap, shared) = (atoms[k] for k in (INDEX, EQUAL, OVERLAP))
    no, both, either = ((op, -1, -1) for op in (NOT, AND, OR))
    if variant == "equal":
        problem.set_program([equal], same)
    if variant == "overlap":
        problem.set_program([overlap, no], ~shared)
    if variant == "index":
        problem.set_program([at], target)
    if variant == "everything":
        problem.set_program([equal, overlap, at, either, both, no], ~(same & (shared | target)))


@dataclass
class Outputs:
    """What sums settle to, by stat."""

    rows: list[Array]
    row_bits: list[Array]
    cols: list[Array]
    col_bits: list[Array]
    shifts: Array

    def arrays(self) -> list[Array]:
        return [*self.rows, *self.row_bits, *self.cols, *self.col_bits, self.shifts]


class Pass:
    """Stats of a problem at one level; their arguments may differ."""

    def __init__(
        self,
        problem: Problem,
        level: str,
        *stats: Stat,
        sides: tuple[bool, bool] = BOTH,
        gaps: bool = False,
        threads: int = 1,
    ):
        self.problem, self.sides, self.threads = problem, sides, threads
        self.count, self.phi = len(stats), stats[0][0]
        double = problem.dtype is np.float64
        self.lowered = _C.Lowered(stats, *sides, False, gaps, double, level)
        self.arguments = [problem.argument()] * len(stats)

    def call(self) -> tuple[Any, ...]:
        p = self.problem
        return addresses(p.tensors), self.arguments, p.n, p.m

    def sums(self, bounded: bool) -> Any:
        """To be added to. In the general form nothing is known of the dot products."""
        largest = float(np.abs(self.problem.dots).max()) if bounded else np.inf
        return self.lowered.sums(*self.call(), largest, self.threads)

    def add(self, sums: Any) -> None:
        dots = self.problem.dots
        for r, rows, c, cols in self.problem.tiles():
            sums.add(address(dots[r:, c:]), dots.shape[1], r, rows, c, cols, False)

    def settle(self, sums: Any, begin: int = 0, end: int | None = None) -> Outputs:
        """Entries that no sum is of are NaN."""
        p = self.problem

        def vectors(length: int, dtype: type, wanted: bool) -> list[Array]:
            return [np.full(length, np.nan, dtype) for _ in range(self.count * wanted)]

        exact = self.phi is None
        found = Outputs(
            vectors(p.n, p.dtype, self.sides[0]),
            vectors(p.n, np.float64, self.sides[0] and exact),
            vectors(p.m, p.dtype, self.sides[1]),
            vectors(p.m, np.float64, self.sides[1] and exact),
            np.full(self.count, 99.0),
        )
        places = map(addresses, (found.rows, found.row_bits, found.cols, found.col_bits))
        sums.settle(begin, p.n if end is None else end, *places, address(found.shifts))
        return found

    def reduce(self, bounded: bool = True) -> Outputs:
        sums = self.sums(bounded)
        self.add(sums)
        return self.settle(sums)

    def weights(
        self,
        grads: tuple[list[Array], list[Array]],
        bits: tuple[list[Array], list[Array]] = ([], []),
        shifts: Array | None = None,
        in_place: bool = False,
        lines: tuple[Array | None, Array | None] = (None, None),
    ) -> Array:
        """G; the form is that of ``shifts``, NaN for the general one."""
        p = self.problem
        shifts = np.full(self.count, np.nan) if shifts is None else shifts
        given = [addresses(x) for x in (bits[0], grads[0], bits[1], grads[1])]
        weights = self.lowered.weights(*self.call(), *given, address(shifts), 0, p.n, self.threads)
        product = np.full(p.n, 3.0)
        weights.sum_products(address(product))
        if any(line is not None for line in lines):
            weights.add_lines(*map(address, lines))
        source = p.dots.copy()
        out = source if in_place else np.full((p.n, p.m + 2), np.nan, p.dtype)
        for r, rows, c, cols in p.tiles():
            place = address(source[r:, c:]), source.shape[1], address(out[r:, c:]), out.shape[1]
            weights.weigh(*place, r, rows, c, cols, False)
        if not in_place:
            assert np.isnan(out[:, p.m :]).all()
            np.testing.assert_array_equal(source, p.dots)
        found = out[:, : p.m].astype(np.float64)
        p.assert_product(product, found)
        return found


def log2_sum(y: Array, keep: Array, axis: int) -> Array:
    y = np.where(keep, y, -np.inf)
    top = y.max(axis)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return top + np.log2(np.exp2(y - np.expand_dims(top, axis)).sum(axis))


def softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


PHI = {
    SOFTPLUS: (softplus, sigmoid),
    RELU: (lambda x: np.maximum(x, 0.0), lambda x: (x > 0).astype(np.float64)),
    IDENTITY: (lambda x: x, np.ones_like),
    SQUARE: (np.square, lambda x: 2.0 * x),
    SIGMOID: (sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
}
