"""Pair sums and their weights from one look at the scores, in Triton's kernels."""

from __future__ import annotations

import math
from typing import Any

import contrastile.functional as losses
import oracles
import pytest
import torch
import triton
import triton.language as tl
from cases import arguments_for, default_choice
from contrastile.backends.triton import TritonBackend
from contrastile.backends.triton.bound import Bound
from contrastile.backends.triton.program import Tiles
from contrastile.engine.forward import weighs_at_once
from contrastile.ops import pair_sum
from contrastile.problem import Equal, Index, Phi, Problem, Scores, Term
from contrastile.problem.row_loss import RowLoss
from contrastile.triton_kernels.maps import softplus_and_sigmoid
from helpers import assert_results_close, cast, evaluate
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")
TRITON: dict[str, Any] = {"backend": "triton"}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The kernels over tiles in their order, and whether they sum and weigh at once."""
    seen: list[tuple[str, bool]] = []
    start = Bound.start

    def recorded(self: Bound, tiles: Tiles, *arguments: Any) -> None:
        own = tiles.start
        seen.append((own.kernel.fn.__name__, own.constants.get("SUMS", False)))
        start(self, tiles, *arguments)

    monkeypatch.setattr(Bound, "start", recorded)
    return seen


@pytest.mark.parametrize("workspace", [None, 2000], ids=["one strip", "strips"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ids", [None, "few"])
def test_siglip_takes_one_look_at_the_scores(
    ids: str | None, dtype: torch.dtype, workspace: int | None, passes: list[tuple[str, bool]]
) -> None:
    choice = default_choice(
        "siglip_loss", shape=(37, 20), scale="logit_scale tensor", bias="tensor", ids=ids
    )
    arguments = cast(arguments_for("siglip_loss", choice), dtype)
    if dtype != torch.float64:
        arguments = cast(arguments, torch.float32, "logit_scale", "logit_bias")
    got = evaluate(losses.siglip_loss, arguments, workspace=workspace, **TRITON)
    assert set(passes) == {("weigh", True)}
    assert (len(passes) > 1) == (workspace is not None)
    rtol = 4 * torch.finfo(dtype).eps * (1 if dtype == torch.float64 else 4)
    wide = cast(arguments, torch.float64)
    assert_results_close(got, evaluate(oracles.siglip_loss, wide), rtol=rtol)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("phi", list(Phi), ids=lambda phi: phi.name.lower())
def test_every_function(phi: Phi, dtype: torch.dtype, passes: list[tuple[str, bool]]) -> None:
    """Two terms with predicates, rows without a positive, weights of rows."""
    x, y = ((torch.randn(21, 12) / 4).to(dtype).requires_grad_() for _ in "xy")
    labels = torch.arange(21) % 4
    columns = torch.arange(21).roll(3)
    columns[::5] = -1
    same = Equal(labels, labels)
    terms = [Term(phi, ~Index(columns) & same), Term(phi, ~same, factor=-0.5)]
    loss = RowLoss("sigmoid", weights=torch.rand(21, dtype=torch.float64))
    found = []
    for backend in ("triton", "reference"):
        stats = pair_sum(
            x, y, terms=terms, scale=2.0, positives=Index(columns), row_loss=loss, backend=backend
        )
        assert stats.loss is not None
        grads = torch.autograd.grad(stats.loss * 3.0, (x, y))
        found.append(dict(zip(("loss", "x", "y"), (stats.loss.detach(), *grads), strict=True)))
    assert set(passes) == {("weigh", True)}
    assert_results_close(*found, rtol=8 * torch.finfo(dtype).eps)


def test_only_where_a_row_needs_no_other() -> None:
    """Not with columns, ranks, or a loss of each row: their gradients are not known beforehand."""
    x, y = torch.randn(6, 4), torch.randn(6, 4)

    def at_once(loss: RowLoss | None, **options: Any) -> bool:
        own = Index.diagonal(6)
        scores = Scores.of("test", x, y)
        terms = [Term(Phi.SOFTPLUS, ~own)]
        problem = Problem.of("test", scores, terms, Term, positives=own, row_loss=loss, **options)
        return weighs_at_once(TritonBackend(), problem.lower()[0])

    assert at_once(RowLoss("sigmoid"))
    assert not at_once(None)
    assert not at_once(RowLoss("sigmoid"), ranks=True)
    assert not at_once(RowLoss("sigmoid", reduction="none"))


@triton.jit
def softplus_of(x, value, rate, n: tl.constexpr):
    i = tl.arange(0, n)
    found, slope = softplus_and_sigmoid(tl.load(x + i))
    tl.store(value + i, found)
    tl.store(rate + i, slope)


def both(x: Tensor) -> tuple[Tensor, Tensor]:
    value, rate = torch.empty_like(x), torch.empty_like(x)
    softplus_of[(1,)](x, value, rate, len(x))
    return value, rate


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_softplus_and_its_slope(dtype: torch.dtype) -> None:
    """To two roundings, near zero and far from it; infinities and NaN stay what they are."""
    x = torch.cat([torch.linspace(-80, 80, 8192), torch.linspace(-1, 1, 8192)]).to(dtype)
    value, rate = both(x)
    wide = x.double()
    exact = wide.clamp(min=0) + torch.log1p(torch.exp(-wide.abs()))
    eps = torch.finfo(dtype).eps
    # A power of 2^-115 has as many roundings as its exponent has bits.
    near = wide.abs() < 8
    for got, true in ((value, exact), (rate, torch.sigmoid(wide))):
        error = ((got.double() - true) / true).abs()
        assert float(error[near].max()) < 8 * eps
        assert float(error.max()) < 100 * eps
    ends = torch.tensor([math.inf, -math.inf, math.nan, 0.0], dtype=dtype)
    value, rate = both(ends)
    assert value[:2].tolist() == [math.inf, 0.0] and rate[:2].tolist() == [1.0, 0.0]
    assert value[2].isnan() and rate[2].isnan() and float(rate[3]) == 0.5
