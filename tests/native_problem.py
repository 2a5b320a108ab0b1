"""Problems for the fused C++ passes, and what they should give, in numpy and fp64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

_C = pytest.importorskip("contrastile._C", reason="the native extension is not built")

INDEX, EQUAL, OVERLAP, NOT, AND, OR = range(6)
SOFTPLUS, RELU, IDENTITY, SQUARE = range(4)
BOTH, ROWS, COLS = (True, True), (True, False), (False, True)

# Rows, columns, extra leading dimension, tile rows, tile columns: off every power of two.
SMALL = (7, 5, 3, 4, 3)
SHAPES = [(1, 1, 0, 1, 1), SMALL, (67, 1037, 11, 33, 1037), (130, 150, 1, 40, 61)]

levels = pytest.mark.parametrize("level", _C.levels())
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
forms = pytest.mark.parametrize("bounded", [True, False], ids=["bounded", "general"])


def address(array: np.ndarray | None) -> int:
    return 0 if array is None else array.ctypes.data


class Problem:
    """Random dots, coefficients, offsets and kept pairs; owns what its descriptors point to."""

    def __init__(self, shape: tuple[int, ...], dtype: type, seed: int = 0, scale: float = 20.0):
        self.n, self.m, extra, self.tile_rows, self.tile_cols = shape
        self.dtype = dtype
        self.rng = np.random.default_rng(seed)
        self.dots = self.uniform((self.n, self.m + extra))
        exact = self.rng.uniform(0.5, 1.0, self.n) * scale
        self.coef_hi = exact.astype(dtype)
        self.coef_lo = (exact - self.coef_hi).astype(dtype)
        self.row_offset = self.uniform(self.n, 3.0)
        self.col_offset: np.ndarray | None = None
        self.holes: list[np.ndarray] = []
        self.program: list[tuple[int, int, int]] = []
        self.class_weights: list[tuple[list[tuple[int, int, int]], float]] = []
        self.class_bits = np.zeros((self.n, self.m))
        self.keep = np.ones((self.n, self.m), bool)
        self.owned: list[np.ndarray] = []

    def uniform(self, size: Any, bound: float = 1.0) -> np.ndarray:
        return self.rng.uniform(-bound, bound, size).astype(self.dtype)

    def atoms(self) -> dict[int, tuple[tuple[int, int, int], np.ndarray]]:
        """One instruction of every leaf op, and the pairs where it is true."""
        a, b = self.rng.integers(0, 3, self.n), self.rng.integers(0, 3, self.m)
        bits_a, bits_b = (
            self.rng.integers(0, 8, self.n) << 40,
            self.rng.integers(0, 8, self.m) << 40,
        )
        index = self.rng.integers(-1, self.m, self.n)
        self.owned += [a, b, bits_a, bits_b, index]
        return {
            INDEX: ((INDEX, address(index), 0), np.arange(self.m) == index[:, None]),
            EQUAL: ((EQUAL, address(a), address(b)), a[:, None] == b),
            OVERLAP: ((OVERLAP, address(bits_a), address(bits_b)), (bits_a[:, None] & bits_b) != 0),
        }

    def add_col_offset(self) -> None:
        self.col_offset = self.uniform(self.m, 4.0)

    def add_hole(self) -> None:
        hole = self.rng.integers(-1, self.m, self.n)
        self.holes.append(hole)
        self.keep[np.flatnonzero(hole >= 0), hole[hole >= 0]] = False

    def set_program(self, steps: list[tuple[int, int, int]], where: np.ndarray) -> None:
        self.program, self.keep = steps, self.keep & where

    def add_class_weights(self) -> None:
        atoms = self.atoms()
        (equal, same), (overlap, shared) = atoms[EQUAL], atoms[OVERLAP]
        self.class_weights = [([equal], 1.5), ([overlap, (NOT, 0, 0)], -0.5), ([], 0.25)]
        self.class_bits = 1.5 * same - 0.5 * ~shared + 0.25

    def scores(self) -> np.ndarray:
        coef = self.coef_hi.astype(np.float64) + self.coef_lo
        with np.errstate(invalid="ignore"):
            y = self.dots[:, : self.m].astype(np.float64) * coef[:, None] + self.row_offset[:, None]
        return y + self.class_bits + (0.0 if self.col_offset is None else self.col_offset)

    def describe(self, descriptor: Any) -> Any:
        descriptor.row_offset, descriptor.col_offset = map(
            address, (self.row_offset, self.col_offset)
        )
        descriptor.holes = [address(hole) for hole in self.holes]
        descriptor.program = self.program
        return descriptor

    def channel(self, bounded: bool) -> Any:
        channel = self.describe(_C.Channel())
        channel.coef_hi, channel.coef_lo = address(self.coef_hi), address(self.coef_lo)
        channel.class_weights = self.class_weights
        channel.bounded, channel.shift = bounded, 7.25 if bounded else 0.0
        return channel

    def term(self, phi: int, factor: float = 1.0) -> Any:
        term = self.describe(_C.Term())
        term.coef, term.phi, term.factor = address(self.coef_hi), phi, factor
        self.coef_lo[:] = 0
        return term

    def tiles(self) -> list[tuple[int, int, int, int]]:
        corners = itertools.product(
            range(0, self.n, self.tile_rows), range(0, self.m, self.tile_cols)
        )
        return [
            (r, min(self.tile_rows, self.n - r), c, min(self.tile_cols, self.m - c))
            for r, c in corners
        ]

    def reduce(self, run: Any, sides: tuple[bool, bool] = BOTH, threads: int = 1) -> None:
        for r, rows, c, cols in self.tiles():
            start = address(self.dots[r:, c:])
            run.reduce(start, self.dots.shape[1], r, rows, c, cols, *sides, threads)

    def weights(
        self, run: Any, sides: tuple[bool, bool] = BOTH, in_place: bool = False, threads: int = 1
    ) -> np.ndarray:
        source = self.dots.copy()
        out = source if in_place else np.full((self.n, self.m + 2), np.nan, self.dtype)
        product = np.full(self.n, 3.0)
        for r, rows, c, cols in self.tiles():
            places = address(source[r:, c:]), source.shape[1], address(out[r:, c:]), out.shape[1]
            run.weights(*places, r, rows, c, cols, *sides, threads, address(product), 0.5)
        if not in_place:
            assert np.isnan(out[:, self.m :]).all()
            np.testing.assert_array_equal(source, self.dots)
        weights = out[:, : self.m].astype(np.float64)
        self.assert_product(product, weights)
        return weights

    def assert_product(self, product: np.ndarray, weights: np.ndarray) -> None:
        """Half the row sums of G o dots were added to 3, in all rows where no product overflows."""
        dots = np.where(self.keep, self.dots[:, : self.m].astype(np.float64), 0.0)
        with np.errstate(invalid="ignore", over="ignore"):
            finite = (np.abs(weights * dots) < np.finfo(self.dtype).max).all(axis=1)
        terms = weights[finite] * dots[finite]
        roundings = np.finfo(self.dtype).eps + self.m * np.finfo(np.float64).eps
        limit = 1e-12 + 2 * roundings * np.abs(terms).sum(1)
        assert (np.abs(product[finite] - 3.0 - 0.5 * terms.sum(1)) <= limit).all()


class Outputs:
    """The arrays that a reduce accumulates into."""

    def __init__(self, problem: Problem, descriptor: Any):
        self.descriptor = descriptor
        self.row_sum, self.col_sum = np.zeros(problem.n), np.zeros(problem.m)
        descriptor.row_sum, descriptor.col_sum = address(self.row_sum), address(self.col_sum)
        if isinstance(descriptor, _C.Channel):
            self.row_shift = np.full(problem.n, -np.inf, problem.dtype)
            self.col_shift = np.full(problem.m, -np.inf, problem.dtype)
            descriptor.row_shift, descriptor.col_shift = map(
                address, (self.row_shift, self.col_shift)
            )

    def lse(self) -> tuple[np.ndarray, np.ndarray]:
        shifts = [self.descriptor.shift] * 2
        if not self.descriptor.bounded:
            shifts = [self.row_shift.astype(np.float64), self.col_shift.astype(np.float64)]
        with np.errstate(divide="ignore"):
            return shifts[0] + np.log2(self.row_sum), shifts[1] + np.log2(self.col_sum)

    def arrays(self) -> list[np.ndarray]:
        return [value for value in vars(self).values() if isinstance(value, np.ndarray)]


def softmax_pass(problem: Problem, level: str, *channels: Any) -> Any:
    run = _C.SoftmaxPass(problem.dtype is np.float64, level)
    run.channels = list(channels)
    return run


def pair_pass(problem: Problem, level: str, *terms: Any) -> Any:
    run = _C.PairPass(problem.dtype is np.float64, level)
    run.terms = list(terms)
    return run


def log2_sum(y: np.ndarray, keep: np.ndarray, axis: int) -> np.ndarray:
    y = np.where(keep, y, -np.inf)
    top = y.max(axis)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return top + np.log2(np.exp2(y - np.expand_dims(top, axis)).sum(axis))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))


PHI = {
    SOFTPLUS: (softplus, sigmoid),
    RELU: (lambda x: np.maximum(x, 0.0), lambda x: (x > 0).astype(np.float64)),
    IDENTITY: (lambda x: x, np.ones_like),
    SQUARE: (np.square, lambda x: 2.0 * x),
}
