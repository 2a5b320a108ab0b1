"""The compiled work of a sweep on blocks against the same in plain torch, in fp64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import contrastile.native
import pytest
import torch
from contrastile.backends.cpu.block_math import NativeBlockMath
from contrastile.backends.torch_block_math import TorchBlockMath
from contrastile.engine.sweep.block_math import Sums, Target
from contrastile.problem.planes import READS, Map
from helpers import generator
from torch import Tensor

_C = pytest.importorskip("contrastile._C", reason="the native extension is not built")

# Less than a line; rows that two threads share, in lines of which the last is not full.
SHAPES = [(3, 5), (67, 1037)]
# Roundings to fp32 of a number, or of a sum's addends. fp64 is compared with fp64: squares that
# leave little of a row's number leave as few of its digits in both.
RTOL = {torch.float64: 1e-10, torch.float32: 6e-7}
# Powers below the normal numbers of fp32 are 0.
TINY = {torch.float64: 0.0, torch.float32: 2.0**-124}
KINDS = [(Map.VOLUME, p) for p in (1, 2, 7)] + [(Map.SOFT_TARGET, 2), (Map.CENTRED, 1)]

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
dtypes = pytest.mark.parametrize("dtype", RTOL, ids=str)
kinds = pytest.mark.parametrize(("kind", "count"), KINDS)
vectors = pytest.mark.parametrize("which", ["both", "neither"])


class Given(NamedTuple):
    """A block's planes, numbers of rows and of columns, a gradient, and what targets hold."""

    planes: list[Tensor]
    row: Tensor | None
    col: Tensor | None
    grad: Tensor
    before: Tensor

    def double(self) -> Given:
        """The same numbers in fp64."""
        row, col = (None if own is None else own.double() for own in (self.row, self.col))
        planes = [plane.double() for plane in self.planes]
        return Given(planes, row, col, self.grad.double(), self.before.double())


@pytest.fixture(params=_C.levels())
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(contrastile.native, "level", lambda: request.param)
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def given(
    shape: tuple[int, int], dtype: torch.dtype, which: str, count: int = 1, kind: Map | None = None
) -> Given:
    numbers = generator(7)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=numbers, dtype=torch.float64).to(dtype)

    planes = [random(*shape) / count**0.5 for _ in range(count)]
    row, col = random(shape[0]), random(shape[1])
    if kind is Map.VOLUME:
        # Of some rows all radicands are positive, of others some, or none.
        row = row.abs() * torch.tensor([60.0, 1.0, 0.0], dtype=dtype)[torch.arange(len(row)) % 3]
    if kind is Map.SOFT_TARGET:
        planes[0] *= 20
        row = row - 30
    return Given(
        planes,
        row if which in ("both", "rows") else None,
        col if which in ("both", "columns") else None,
        random(*shape),
        random(*shape),
    )


def module(dtype: torch.dtype) -> NativeBlockMath:
    return NativeBlockMath(_C, dtype)


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """To roundings of each number."""
    torch.testing.assert_close(actual.double(), expected, rtol=RTOL[dtype], atol=TINY[dtype])


def assert_sums_close(actual: Tensor, exact: Tensor, addends: Tensor, dtype: torch.dtype) -> None:
    """To roundings of each addend."""
    assert bool(((actual - exact).abs() <= RTOL[dtype] * addends.abs() + 1e-300).all())


def sums_of(shape: tuple[int, int], start: float = 0.5) -> Sums:
    return Sums(*(torch.full((size,), start, dtype=torch.float64) for size in shape))


@shapes
@dtypes
@vectors
def test_scale(level: str, shape: tuple[int, int], dtype: torch.dtype, which: str) -> None:
    own = given(shape, dtype, which)
    out, exact = torch.full_like(own.grad, torch.nan), torch.empty(shape, dtype=torch.float64)
    module(dtype).scale(own.planes[0], own.row, own.col, out)
    wide = own.double()
    TorchBlockMath().scale(wide.planes[0], wide.row, wide.col, exact)
    assert_close(out, exact, dtype)
    in_place = own.planes[0].clone()
    module(dtype).scale(in_place, own.row, own.col, in_place)
    assert torch.equal(in_place, out)


@shapes
@dtypes
@vectors
@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("wanted", ["both", "rows", "columns", "neither"])
def test_fold(
    level: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
    which: str,
    add: bool,
    wanted: str,
) -> None:
    own = given(shape, dtype, which)
    wide = own.double()
    out = own.before.clone() if add else torch.full_like(own.before, torch.nan)
    exact, magnitude = (wide.before.clone() for _ in range(2))
    sums, exact_sums, sizes = sums_of(shape), sums_of(shape), sums_of(shape)
    asked = Sums(
        sums.rows if wanted in ("both", "rows") else None,
        sums.cols if wanted in ("both", "columns") else None,
    )
    module(dtype).fold(own.grad, own.planes[0], own.row, own.col, Target(out, add), asked)
    plain, value = TorchBlockMath(), wide.planes[0]
    plain.fold(wide.grad, value, wide.row, wide.col, Target(exact, add), exact_sums)
    factors = (None if v is None else v.abs() for v in (wide.row, wide.col))
    magnitude.abs_()
    plain.fold(wide.grad.abs(), value.abs(), *factors, Target(magnitude, add), sizes)
    assert bool(((out - exact).abs() <= RTOL[dtype] * magnitude).all())
    for found, right, addends in zip(asked, exact_sums, sizes, strict=True):
        if found is not None:
            assert right is not None and addends is not None
            # Products of two numbers of fp32 are exact in fp64.
            assert_sums_close(found, right, addends, torch.float64)


@shapes
@dtypes
@vectors
@kinds
def test_map(
    level: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
    which: str,
    kind: Map,
    count: int,
) -> None:
    own = given(shape, dtype, which, count, kind)
    wide = own.double()
    out, exact = torch.full_like(own.grad, torch.nan), torch.empty(shape, dtype=torch.float64)
    module(dtype).map(kind, own.planes, own.row, own.col, out)
    TorchBlockMath().map(kind, wide.planes, wide.row, wide.col, exact)
    assert_close(out, exact, dtype)


@shapes
@dtypes
@vectors
@kinds
@pytest.mark.parametrize("asked", ["all", "some", "no sums"])
def test_map_gradients(
    level: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
    which: str,
    kind: Map,
    count: int,
    asked: str,
) -> None:
    own = given(shape, dtype, which, count, kind)
    wide = own.double()
    adds = [None if asked == "some" and p == 0 else p % 2 == 0 for p in range(count)]

    def targets(before: Tensor) -> list[Target | None]:
        return [None if add is None else Target(before.clone(), add) for add in adds]

    def run(math: Any, numbers: Given, into: Sequence[Target | None], sums: Sums) -> None:
        math.map_gradients(kind, numbers.planes, numbers.row, numbers.col, numbers.grad, into, sums)

    found, exact = targets(own.before), targets(wide.before)
    sums, exact_sums = sums_of(shape), sums_of(shape)
    run(module(dtype), own, found, Sums() if asked == "no sums" else sums)
    run(TorchBlockMath(), wide, exact, exact_sums)
    for actual, right in zip(found, exact, strict=True):
        if actual is not None:
            assert right is not None
            size = wide.before.abs() * actual.add + (right.out - wide.before * actual.add).abs()
            assert bool(
                ((actual.out - right.out).abs() <= RTOL[dtype] * size + 9 * TINY[dtype]).all()
            )
    if asked == "no sums":
        assert bool((sums.rows == 0.5).all()) and bool((sums.cols == 0.5).all())
        return
    # The addends' magnitudes: of gradients and numbers of columns without their signs.
    positive = wide._replace(grad=wide.grad.abs(), col=None if wide.col is None else wide.col.abs())
    if kind is Map.SOFT_TARGET:
        positive = positive._replace(planes=[wide.planes[0], wide.planes[1].abs()], col=wide.col)
    sizes = sums_of(shape)
    run(TorchBlockMath(), positive, [None] * count, sizes)
    for actual_sums, right_sums, addends in zip(sums, exact_sums, sizes, strict=True):
        assert actual_sums is not None and right_sums is not None and addends is not None
        assert_sums_close(actual_sums, right_sums, addends, dtype)


@dtypes
def test_the_ends(level: str, dtype: torch.dtype) -> None:
    """Powers leave the range as zeros and infinities; NaN comes out, and out of both maps."""
    exponents = [-torch.inf, -1e30, -200.0, 1e30, torch.inf, torch.nan, 0.0]
    first = torch.tensor([exponents], dtype=dtype)
    ones, out = torch.ones_like(first), torch.empty_like(first)
    module(dtype).map(Map.SOFT_TARGET, [first * 10, ones], None, None, out)
    inf = torch.inf
    assert torch.equal(
        out.nan_to_num(7, posinf=inf), torch.tensor([[0, 0, 0, inf, inf, 7, 1.0]]).to(dtype)
    )
    module(dtype).map(
        Map.VOLUME,
        [torch.tensor([[torch.nan, 2.0, 1.0, 0.0, inf, 0.5, 0.1]], dtype=dtype)],
        None,
        None,
        out,
    )
    assert out[0, 0].isnan() and out[0, 1:5].tolist() == [0.0, 0.0, 1.0, 0.0]


def test_what_is_left_out_gives_nothing(level: str) -> None:
    """0 times an infinite power is 0, in gradients and in their sums."""
    planes = [torch.full((3, 300), 2e4), torch.ones(3, 300)]
    grad = torch.zeros(3, 300)
    for math in (module(torch.float32), TorchBlockMath()):
        found = [Target(torch.full_like(grad, torch.nan), add=False) for _ in planes]
        sums = Sums(torch.zeros(3, dtype=torch.float64), torch.zeros(300, dtype=torch.float64))
        math.map_gradients(Map.SOFT_TARGET, planes, None, None, grad, found, sums)
        for zero in (*(target.out for target in found), *sums):
            assert zero is not None and bool((zero == 0).all())


def test_a_target_may_lie_where_the_gradient_does(level: str) -> None:
    own = given((67, 1037), torch.float32, "both", 2, Map.SOFT_TARGET)
    apart = [Target(torch.empty_like(own.grad), add=False) for _ in range(2)]
    math, row, col = module(torch.float32), own.row, own.col
    math.map_gradients(Map.SOFT_TARGET, own.planes, row, col, own.grad, apart, Sums())
    together = [Target(own.grad, add=False), Target(torch.empty_like(own.grad), add=False)]
    math.map_gradients(Map.SOFT_TARGET, own.planes, row, col, own.grad, together, Sums())
    for one, other in zip(apart, together, strict=True):
        assert torch.equal(one.out, other.out)


def test_codes_are_those_of_python() -> None:
    assert _C.maps == {kind.name: (int(kind), *READS[kind]) for kind in Map}


def test_what_it_does_not_know_is_refused() -> None:
    math = _C.BlockMath(False, "baseline")
    x = torch.zeros(2, 2)
    for kind, planes, message in (
        (3, [x], "unknown function 3"),
        (-1, [x], "unknown function -1"),
        (0, [], "does not read 0 planes"),
        (0, [x] * 8, "does not read 8 planes"),
        (1, [x], "does not read 1 planes"),
    ):
        with pytest.raises(ValueError, match=message):
            math.map(2, 2, 1, kind, planes, None, None, x)
    with pytest.raises(ValueError, match="one a plane"):
        math.map_gradients(2, 2, 1, 0, [x, x], None, None, x, [x], [False], None, None)
    with pytest.raises(ValueError, match="one a target"):
        math.map_gradients(2, 2, 1, 0, [x], None, None, x, [x], [], None, None)
