"""Rows of unit length: one node in eager code, torch's operations in a trace, both the formula."""

from __future__ import annotations

from collections.abc import Callable

import contrastile.functional as losses
import pytest
import torch
from contrastile import native
from contrastile.ops.unit_length import unit_length
from helpers import generator
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
N, D = 33, 19

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(params=["compiled", "plain"])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the extension, and as where it was not built."""
    if request.param == "plain":
        monkeypatch.setattr(native, "load_for", lambda _: None)
    else:
        pytest.importorskip("contrastile._C", reason="the native extension is not built")
    return str(request.param)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def oracle(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows and the gradient in fp64; of zero rows zero."""
    wide = x.detach().double().requires_grad_()
    length = wide.square().sum(1, keepdim=True).sqrt()
    unit = wide / length
    found = torch.autograd.grad(unit, wide, grad.double())[0]
    zero = length == 0
    return unit.detach().masked_fill(zero, 0.0), found.masked_fill(zero, 0.0)


def step(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    own = x.detach().requires_grad_()
    unit = unit_length(own)
    return unit.detach(), torch.autograd.grad(unit, own, grad)[0]


def assert_near(got: Tensor, wanted: Tensor, roundings: float) -> None:
    limit = roundings * torch.finfo(got.dtype).eps * float(wanted.abs().max())
    torch.testing.assert_close(got.double(), wanted, rtol=0.0, atol=limit)


@each_dtype
@pytest.mark.usefixtures("passes", "poisoned_empty")
def test_formula(dtype: torch.dtype) -> None:
    x = drawn(N, D).to(dtype)
    x[3] = 0.0
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    grad = drawn(N, D, seed=1).to(wide)
    unit, gradient = step(x, grad)
    assert (unit.dtype, gradient.dtype) == (wide, dtype)
    expected_unit, expected = oracle(x, grad)
    assert_near(unit, expected_unit, 2)
    assert_near(gradient, expected, 2)
    assert not unit[3].any() and not gradient[3].any()


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (1e-30, torch.float32),
        (1e30, torch.float32),
        (1e-200, torch.float64),
        (1e300, torch.float64),
    ],
)
def test_rows_whose_squares_leave_the_range(size: float, dtype: torch.dtype) -> None:
    pytest.importorskip("contrastile._C", reason="the native extension is not built")
    x = (drawn(N, D) * size).to(dtype)
    unit, gradient = step(x, torch.ones(N, D, dtype=dtype))
    expected_unit, expected = oracle(x / size, torch.ones(N, D))
    assert_near(unit, expected_unit, 4)
    assert_near(gradient * size, expected, 8)


@pytest.mark.usefixtures("passes")
def test_rows_that_are_no_numbers() -> None:
    x = drawn(4, D).float()
    x[1, 2], x[2, 3] = torch.nan, torch.inf
    unit, _ = step(x, torch.ones(4, D))
    assert unit[1].isnan().any() and unit[2].isnan().any()
    assert unit[[0, 3]].isfinite().all()


def views(x: Tensor) -> dict[str, Tensor]:
    """The numbers of ``x`` as they may lie in memory."""
    apart = torch.zeros(2 * N, 2 * D, dtype=x.dtype)
    apart[::2, ::2] = x
    return {
        "transposed": x.t().contiguous().t(),
        "apart": apart[::2, ::2],
        "negative": torch._neg_view(-x),
    }


@pytest.mark.parametrize("view", ["transposed", "apart", "negative"])
@pytest.mark.usefixtures("passes")
def test_memory(view: str) -> None:
    x, grad = drawn(N, D).float(), drawn(N, D, seed=1).float()
    expected = step(x, grad)
    for got, wanted in zip(step(views(x)[view], views(grad)[view]), expected, strict=True):
        assert_near(got, wanted.double(), 2)
    one = drawn(1, D, seed=2).float().expand(N, D)
    assert torch.equal(step(x, one)[1], step(x, one.contiguous())[1])


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize("shape", [(0, D), (N, 0), (0, 0)])
def test_nothing(shape: tuple[int, int]) -> None:
    unit, gradient = step(torch.empty(shape), torch.empty(shape))
    assert unit.shape == gradient.shape == shape


def test_many_threads_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, grad = drawn(700, 512).float(), drawn(700, 512, seed=1).float()
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda own=threads: own)
        found.append(step(x, grad))
    assert all(map(torch.equal, *found))


def test_without_a_graph() -> None:
    x = drawn(N, D).float().requires_grad_()
    unit = unit_length(x)
    assert unit.requires_grad
    with torch.no_grad():
        assert not unit_length(x).requires_grad
        assert torch.equal(unit_length(x), unit)
    assert not unit_length(x.detach()).requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(unit_length(x), unit)


def test_writing_to_the_rows_before_the_backward_pass_is_noticed() -> None:
    x = drawn(N, D).float().requires_grad_()
    unit = unit_length(x)
    with torch.no_grad():
        x.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        unit.sum().backward()


def test_a_second_derivative_is_refused() -> None:
    x = drawn(N, D).requires_grad_()
    (first,) = torch.autograd.grad(unit_length(x, "info_nce").sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="info_nce: double backward is not supported"):
        first.sum().backward()


def test_forward_mode_is_refused() -> None:
    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(drawn(N, D).requires_grad_(), drawn(N, D, seed=1))
        with pytest.raises(RuntimeError, match="info_nce: forward-mode derivatives"):
            unit_length(x, "info_nce")


def compiled(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.compile(function, backend="aot_eager", fullgraph=True)(x)


def of_func(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.func.vjp(function, x.detach())[0]


@each_dtype
@pytest.mark.parametrize("trace", [compiled, of_func])
def test_a_trace_is_the_same(trace: Callable[..., Tensor], dtype: torch.dtype) -> None:
    x = drawn(N, D).to(dtype)
    x[3] = 0.0
    eager, grad = unit_length(x), drawn(N, D, seed=1)
    assert_near(trace(unit_length, x), eager.double(), 2)
    gradient = torch.func.vjp(unit_length, x)[1](grad.to(eager.dtype))[0]
    assert_near(gradient, step(x, grad.to(eager.dtype))[1].double(), 4)


def test_losses_take_it() -> None:
    """A loss of rows of any length is that of their directions, whose gradient is across them."""
    x, y = (drawn(N, D, seed=seed).requires_grad_() for seed in (0, 1))
    loss = losses.info_nce(x * 3.0, y, temperature=0.5, normalize=True)
    unit = [t / t.norm(dim=1, keepdim=True) for t in (x, y)]
    torch.testing.assert_close(loss, losses.info_nce(*unit, temperature=0.5))
    loss.backward()
    assert x.grad is not None
    torch.testing.assert_close((x.grad * x).sum(1), torch.zeros(N, dtype=torch.float64))
