"""What hard_negative_nce has of its own: its weights, its bound, and what it shows of its rows."""

from __future__ import annotations

import math

import pytest
import torch
from cases import arguments_for, default_choice
from contrastile.functional import hard_negative_nce, info_nce
from helpers import Arguments, assert_results_close, evaluate
from torch import Tensor

ROWS, SCALE = 9, 5.0


def arguments_of(**changes: object) -> Arguments:
    choice = default_choice(
        "hard_negative_nce", shape=(ROWS, 6), scale="logit_scale tensor", value=SCALE, **changes
    )
    return arguments_for("hard_negative_nce", choice)


def test_without_weights_it_is_info_nce(backend: str) -> None:
    arguments = arguments_of(beta=0.0)
    got = evaluate(hard_negative_nce, arguments, backend=backend)
    del arguments["beta"], arguments["tau_plus"]
    assert_results_close(got, evaluate(info_nce, arguments, backend=backend))


def test_weights_are_of_the_negatives_alone(backend: str) -> None:
    """With a large beta a row's hardest negative counts as all of them."""
    arguments = arguments_of(reduction="none")
    scores = SCALE * arguments["query"] @ arguments["key"].T
    hardest = scores.masked_fill(torch.eye(ROWS, dtype=torch.bool), -torch.inf).amax(1)
    expected = torch.log1p((ROWS - 1) * torch.exp(hardest - scores.diagonal()))
    got = hard_negative_nce(**{**arguments, "beta": 100.0}, backend=backend)
    assert ((got - expected).abs() < 0.1 * expected).all()


def test_where_the_bound_holds_only_positives_have_a_gradient(backend: str) -> None:
    x = torch.eye(ROWS, dtype=torch.float64)
    query, key = x.clone().requires_grad_(), x.clone().requires_grad_()
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    loss = hard_negative_nce(query, key, logit_scale=scale, tau_plus=0.1, backend=backend)
    odds = (ROWS - 1) * math.exp(-2 * SCALE)
    assert loss.item() == pytest.approx(math.log1p(odds), rel=1e-12)
    loss.backward()
    share = odds / (1 + odds)
    for grad in (query.grad, key.grad):
        torch.testing.assert_close(grad, -share * SCALE / ROWS * x)
    assert scale.grad is not None and scale.grad.item() == pytest.approx(-2 * share)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_bound_hides_no_nan(value: float, backend: str) -> None:
    x = torch.eye(ROWS)
    key = x.clone()
    key[3, 0] = value
    loss = hard_negative_nce(x, key, logit_scale=SCALE, tau_plus=0.1, backend=backend)
    assert loss.isnan()


@pytest.mark.parametrize("tau_plus", [0.0, 0.05])
def test_stats_show_the_denominator(tau_plus: float, backend: str) -> None:
    arguments = arguments_of(ids="few", bias="float", reduction="none")

    def parts(**own: float) -> tuple[Tensor, Tensor, Tensor]:
        losses, stats = hard_negative_nce(
            **{**arguments, **own}, backend=backend, return_stats=True
        )
        return losses, stats.lse - stats.positive, stats.rank

    losses, shown, ranks = parts(tau_plus=tau_plus)
    full = losses != 0
    torch.testing.assert_close(shown[full], losses[full])
    dots = arguments["query"] @ arguments["key"].T
    kept = arguments["ids"][:, None] != arguments["ids"]
    assert torch.equal(ranks, (kept & (dots > dots.diagonal()[:, None])).sum(1))
