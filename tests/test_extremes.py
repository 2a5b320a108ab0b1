"""The Triton backend where numbers near the ends of their range: in both forms of the shift."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from contrastile.backends.gpu import forms
from contrastile.ops import log_sum_exp, pair_sum
from contrastile.problem import Channel, Index, InputError, Phi, Term
from torch import Tensor
from torch.nn.functional import normalize

pytestmark = pytest.mark.usefixtures("poisoned_empty")
TRITON: dict[str, Any] = {"backend": "triton"}


@pytest.fixture(params=["both forms", "general form"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a large problem, and of a small one."""
    if request.param == "both forms":
        monkeypatch.setattr(forms, "SMALL", 0)


def gradient(x: Tensor, y: Tensor, upstream: Tensor, scale: float | Tensor, **own: Any) -> Tensor:
    q = x.clone().requires_grad_()
    log_sum_exp(q, y, scale=scale, **own).rows[0].backward(upstream)
    assert q.grad is not None
    return q.grad


def assert_relative(got: Tensor, expected: Tensor, limit: float) -> None:
    error = (got.double() - expected).abs().max() / expected.abs().max()
    assert error < limit, float(error)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-12, 1e-8, 1.0, 1e9, 1e20, 1e30])
def test_upstream_gradients_of_any_size(size: float) -> None:
    """Powers near the top of their range have coefficients near the bottom of theirs."""
    x = normalize(torch.randn(6, 16), dim=1)
    y = torch.cat([x, normalize(torch.randn(9, 16), dim=1)])
    upstream = torch.full((6,), size)
    got = gradient(x, y, upstream, 100.0, **TRITON)
    exact = gradient(x.double(), y.double(), upstream.double(), 100.0, backend="reference")
    assert_relative(got, exact, 1e-5)


@pytest.mark.parametrize("size", [1.0, 1e10, 1e30])
def test_upstream_gradients_of_small_sums(size: float) -> None:
    x = torch.zeros(4, 16)
    x[:, 0] = 1.0
    y = normalize(-x + 0.05 * torch.randn(4, 16), dim=1)
    upstream = torch.full((4,), size)
    got = gradient(x, y, upstream, 66.0, **TRITON)
    exact = gradient(x.double(), y.double(), upstream.double(), 66.0, backend="reference")
    assert_relative(got, exact, 1e-5)


@pytest.mark.parametrize(("size", "scale"), [(1e-3, 1e5), (1e3, 1e-8), (30.0, 100.0)])
def test_scale_of_each_row_beyond_half_precision(size: float, scale: float) -> None:
    x = (normalize(torch.randn(12, 16), dim=1) * size).half()
    y = normalize(torch.randn(9, 16), dim=1).half()
    scales = scale * (0.5 + torch.rand(12))
    found = []
    for own, dtype in ((TRITON, torch.float16), ({"backend": "reference"}, torch.float64)):
        k = y.to(dtype).requires_grad_()
        lse = log_sum_exp(x.to(dtype), k, scale=scales, **own).rows[0]
        (grad,) = torch.autograd.grad(lse.sum() * 1e-3 / (size * scale), k)
        found.append(grad)
    assert_relative(found[0], found[1].double(), 5e-3)


def test_scale_of_each_row_of_positives_alone() -> None:
    """No pass over pairs: only the positives have an upstream gradient."""
    x, y = (torch.randn(6, 8).half() for _ in "xy")
    scales = torch.linspace(0.1, 0.3, 6)
    found = []
    for own, dtype in ((TRITON, torch.float16), ({"backend": "reference"}, torch.float64)):
        k = y.to(dtype).requires_grad_()
        stats = log_sum_exp(x.to(dtype), k, scale=scales, positives=Index.diagonal(6), **own)
        assert stats.positive is not None
        found += torch.autograd.grad(stats.positive.sum(), k)
    assert_relative(found[0], found[1].double(), 5e-3)


@pytest.mark.parametrize("bias", [3e8, 5e8, 1e9])
def test_shifts_that_fp32_rounds_by_whole_bits(bias: float) -> None:
    x, y = (normalize(torch.randn(5, 8), dim=1) for _ in "xy")
    lse = log_sum_exp(x, y, row_bias=torch.full((5,), bias), **TRITON).rows[0]
    torch.testing.assert_close(lse, torch.full((5,), bias))


def test_norms_whose_squares_vanish() -> None:
    x, y = torch.full((5, 8), 1e-24), torch.full((5, 8), -1e14)
    got = log_sum_exp(x, y, scale=1e12, **TRITON).rows[0]
    exact = log_sum_exp(x.double(), y.double(), scale=1e12, backend="reference").rows[0]
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=0.0)


def test_a_row_of_nan_upstream_leaves_others_as_they_are() -> None:
    x, y = (normalize(torch.randn(20, 16), dim=1).half() for _ in "xy")
    upstream = torch.full((20,), 1e-6)
    alone = gradient(x, y, upstream, 10.0, **TRITON)[:-1]
    upstream[-1] = torch.nan
    assert torch.equal(gradient(x, y, upstream, 10.0, **TRITON)[:-1], alone)


def test_negated_views_are_read_with_their_sign() -> None:
    x, y = torch.randn(8, 8), torch.randn(8, 8)
    own: dict[str, Any] = {"positives": Index.diagonal(8), "channels": [Channel()], **TRITON}
    exact = log_sum_exp(-x, y, **own).rows[0]
    assert torch.equal(log_sum_exp(torch._neg_view(x), y, **own).rows[0], exact)
    found = []
    for negate in (torch.neg, torch._neg_view):
        q = x.clone().requires_grad_()
        stats = log_sum_exp(q, y, **own)
        assert stats.positive is not None
        upstream = (torch.ones(8), negate(torch.arange(8.0)))
        found += torch.autograd.grad((stats.rows[0], stats.positive), q, upstream)
    assert torch.equal(*found)


def test_a_factor_beyond_fp32_is_no_finite_lie() -> None:
    x = torch.randn(4, 4)
    terms = [Term(Phi.SOFTPLUS, factor=1e10)]
    value = pair_sum(x, x.clone(), scale=1e30, terms=terms, **TRITON).rows[0]
    assert not value.isfinite().any()


def test_column_ranks_refuse_thresholds_of_rows() -> None:
    x, zero = torch.randn(6, 4), torch.zeros(6)
    thresholds = {"row_thresholds": zero, "col_thresholds": zero}
    with pytest.raises(InputError, match="ranks of columns compare scores"):
        pair_sum(
            x, x + 1, terms=[Term(Phi.SOFTPLUS, threshold=zero)],
            columns=True, ranks=True, **thresholds,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
@pytest.mark.parametrize("primitive", [log_sum_exp, pair_sum])
@pytest.mark.parametrize("rows", [8, 0])
def test_what_is_forgotten_is_freed_at_once(
    primitive: Any, rows: int, backend: str, dtype: torch.dtype
) -> None:
    """No cycle through what the graph's node keeps: it would hold a step's memory until gc."""
    own = {"terms": [Term(Phi.SOFTPLUS)]} if primitive is pair_sum else {}
    gc.disable()
    try:
        x, y = torch.randn(8, 4, dtype=dtype, requires_grad=True), torch.randn(rows, 4, dtype=dtype)
        stats = primitive(x, y, columns=True, backend=backend, **own)
        node: Any = stats.rows[0].grad_fn
        node.guest = torch.empty(0)
        guest = weakref.ref(node.guest)
        del stats, node
        assert guest() is None
    finally:
        gc.enable()
