"""A sweep's work on a block in Triton, against dense formulas in fp64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from contrastile.backends.triton.block_math import MAPS, SHAPES, TritonBlockMath
from contrastile.engine.sweep.block_math import Sums, Target
from contrastile.problem.planes import Map
from contrastile.problem.spec import Sizes
from helpers import generator
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

# More than a tile both ways, and no multiple of one; less; tiles' own sides.
TILE = SHAPES[torch.float32]
BLOCKS = [(TILE.rows + 9, 2 * TILE.cols + 5), (3, 1), tuple(TILE)]
shapes = pytest.mark.parametrize("shape", BLOCKS, ids=str)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


class Formula(NamedTuple):
    """A map of planes and of numbers of rows and columns, how many planes, and what numbers are
    where there are none.
    """

    of: Callable[[list[Tensor], Tensor, Tensor], Tensor]
    planes: int
    absent: float


def volume(planes: list[Tensor], row: Tensor, col: Tensor) -> Tensor:
    left = row - sum(plane.square() for plane in planes)
    there = left > 0
    return torch.where(there, torch.where(there, left, 1.0).sqrt() * col, 0.0)


FORMULAS = {
    Map.VOLUME: Formula(volume, 3, 1.0),
    Map.SOFT_TARGET: Formula(lambda p, row, col: (p[0] + row + col).exp() * p[1], 2, 0.0),
    Map.CENTRED: Formula(lambda p, row, col: p[0] - row - col, 1, 0.0),
}
maps = pytest.mark.parametrize("kind", FORMULAS, ids=lambda kind: kind.name)


def test_every_map_has_a_device_function() -> None:
    assert set(MAPS) == set(Map) == set(FORMULAS)


def math_of(shape: tuple[int, int], dtype: torch.dtype) -> TritonBlockMath:
    return TritonBlockMath(Sizes(*shape, 8, dtype, dtype, torch.device("cpu")))


def drawn(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def vectors(
    shape: tuple[int, int], dtype: torch.dtype, present: str
) -> tuple[Tensor | None, Tensor | None]:
    row = drawn(shape[0], dtype=dtype, seed=1) + 1 if "row" in present else None
    col = drawn(shape[1], dtype=dtype, seed=2) if "col" in present else None
    return row, col


def as_matrix(vector: Tensor | None, dim: int, absent: float) -> Tensor:
    if vector is None:
        return torch.full((1, 1), absent, dtype=torch.float64)
    return vector.double().unsqueeze(dim)


def close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    # Of fp64 also the formula rounds, where squares leave little of a radicand.
    limit = 1e-12 if dtype == torch.float64 else 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), expected, rtol=limit, atol=limit)


@shapes
@dtypes
@pytest.mark.parametrize("present", ["", "row", "col", "row col"])
def test_scale(shape: tuple[int, int], dtype: torch.dtype, present: str) -> None:
    block, (row, col) = drawn(*shape, dtype=dtype, seed=3), vectors(shape, dtype, present)
    expected = block.double() * as_matrix(row, 1, 1.0) * as_matrix(col, 0, 1.0)
    out = torch.empty_like(block)
    math = math_of(shape, dtype)
    math.scale(block, row, col, out)
    close(out, expected, dtype)
    math.scale(block, row, col, block)
    assert torch.equal(block, out)


@maps
@shapes
@dtypes
@pytest.mark.parametrize("present", ["", "row", "col", "row col"])
def test_map(kind: Map, shape: tuple[int, int], dtype: torch.dtype, present: str) -> None:
    formula, (row, col) = FORMULAS[kind], vectors(shape, dtype, present)
    planes = [0.6 * drawn(*shape, dtype=dtype, seed=3 + p) for p in range(formula.planes)]
    out = torch.empty_like(planes[0])
    math_of(shape, dtype).map(kind, planes, row, col, out)
    wide = as_matrix(row, 1, formula.absent), as_matrix(col, 0, formula.absent)
    close(out, formula.of([p.double() for p in planes], *wide).expand(shape), dtype)


@maps
@shapes
@pytest.mark.parametrize(
    ("dtype", "of_grad"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
    ],
    ids=str,
)
def test_map_gradients(
    kind: Map, shape: tuple[int, int], dtype: torch.dtype, of_grad: torch.dtype
) -> None:
    """To the first plane's target, to what is in the last's, to no other; to both sums."""
    formula, (row, col) = FORMULAS[kind], vectors(shape, dtype, "row col")
    assert row is not None and col is not None
    planes = [0.6 * drawn(*shape, dtype=dtype, seed=3 + p) for p in range(formula.planes)]
    grad = drawn(*shape, dtype=dtype, seed=9).to(of_grad)
    leaves = [own.double().requires_grad_() for own in (*planes, row, col)]
    value = formula.of(leaves[:-2], leaves[-2][:, None], leaves[-1])
    expected = torch.autograd.grad(value, leaves, grad.double())
    first, last = torch.empty_like(planes[0]), drawn(*shape, dtype=dtype, seed=10)
    before = last.clone()
    targets: list[Target | None] = [Target(first, False), *[None] * (formula.planes - 1)]
    if formula.planes > 1:
        targets[-1] = Target(last, True)
    sums = Sums(torch.full((shape[0],), 0.5).double(), torch.full((shape[1],), 0.25).double())
    math_of(shape, dtype).map_gradients(kind, planes, row, col, grad, targets, sums)
    close(first, expected[0], dtype)
    close(last, before.double() + (expected[formula.planes - 1] if targets[1:] else 0.0), dtype)
    assert sums.rows is not None and sums.cols is not None
    torch.testing.assert_close(sums.rows, expected[-2] + 0.5, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sums.cols, expected[-1] + 0.25, rtol=1e-5, atol=1e-5)


def test_one_memory_for_two_planes() -> None:
    shape = BLOCKS[0]
    plane, grad = (drawn(*shape, dtype=torch.float64, seed=seed) for seed in (3, 4))
    out = torch.empty_like(plane)
    targets = [Target(out, False), Target(out, True)]
    sums = Sums(torch.zeros(shape[0], dtype=torch.float64))
    math_of(shape, torch.float64).map_gradients(
        Map.SOFT_TARGET, [plane, plane], None, None, grad, targets, sums
    )
    close(out, grad * plane.exp() * (1 + plane), torch.float64)
    assert sums.rows is not None
    torch.testing.assert_close(sums.rows, (grad * plane.exp() * plane).sum(1))


def test_no_gradient_of_what_is_not_finite_where_none_comes() -> None:
    shape = 2, 3
    plane, grad = torch.full(shape, 1000.0), torch.zeros(shape)
    out, sums = torch.empty(shape), Sums(torch.zeros(2).double(), torch.zeros(3).double())
    targets = [Target(out, False), None]
    math_of(shape, torch.float32).map_gradients(
        Map.SOFT_TARGET, [plane, plane], None, None, grad, targets, sums
    )
    assert sums.rows is not None and sums.cols is not None
    assert not out.any() and not sums.rows.any() and not sums.cols.any()


@pytest.mark.parametrize("kind", [Map.VOLUME, Map.SOFT_TARGET], ids=lambda kind: kind.name)
def test_nan_shows(kind: Map) -> None:
    planes = [torch.tensor([[0.5, torch.nan]])] * 2
    out = torch.empty(1, 2)
    math_of((1, 2), torch.float32).map(kind, planes, None, None, out)
    assert out.isnan().tolist() == [[False, True]]


@pytest.mark.parametrize("x", [-1e30, -200.0, -87.0, 1e-30, 30.0, 88.0, 200.0, torch.inf])
def test_soft_targets_of_any_size(x: float) -> None:
    """Also of numbers whose sum fp32 would round: the power's error is its exponent's."""
    planes = [torch.tensor([[x]]), torch.ones(1, 1)]
    row = torch.tensor([-25.1234567 if abs(x) < 100 else 0.0])
    out = torch.empty(1, 1)
    math_of((1, 1), torch.float32).map(Map.SOFT_TARGET, planes, row, None, out)
    exact = (planes[0].double() + row.double()).exp().float()
    torch.testing.assert_close(out, exact, rtol=3e-7, atol=1e-37)


@shapes
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("present", ["", "row", "row col"])
@pytest.mark.parametrize(
    "of_grad", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_fold(shape: tuple[int, int], add: bool, present: str, of_grad: torch.dtype) -> None:
    dtype = torch.float64 if of_grad == torch.float64 else torch.float32
    grad = drawn(*shape, dtype=dtype, seed=3).to(of_grad)
    value, out = (drawn(*shape, dtype=dtype, seed=seed) for seed in (4, 5))
    row, col = vectors(shape, dtype, present)
    expected = grad.double() * as_matrix(row, 1, 1.0) * as_matrix(col, 0, 1.0)
    expected = expected + out.double() if add else expected
    products = grad.double() * value.double()
    sums = Sums(
        torch.ones(shape[0], dtype=torch.float64) if "row" in present else None,
        torch.ones(shape[1], dtype=torch.float64) if "col" in present else None,
    )
    math_of(shape, dtype).fold(grad, value, row, col, Target(out, add), sums)
    close(out, expected, dtype)
    for own, dim in ((sums.rows, 1), (sums.cols, 0)):
        if own is not None:
            torch.testing.assert_close(own, products.sum(dim) + 1, rtol=1e-12, atol=1e-12)
