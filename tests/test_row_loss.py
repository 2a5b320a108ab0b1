"""A loss that is summed over rows within the pass: the composition of the stats, in any strips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contrastile.native
import pytest
import torch
from contrastile import ClipLoss, InputError, clip_loss, info_nce
from contrastile.backends.cpu import CpuBackend
from contrastile.engine import forward, one_pass
from contrastile.ops import log_sum_exp, pair_sum
from contrastile.ops.stats import ScoreStats
from contrastile.problem import Channel, Equal, Index, Phi, Term
from contrastile.problem.row_loss import RowLoss
from dense import evaluate_all, inputs
from engines import RAGGED
from helpers import Arguments, assert_results_close, generator
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROWS, COLS = 23, 31
BIASES = ("row_bias", "col_bias")
# Rows 5 and 11 have no positive; row 7 and column 2 have no negative.
TARGETS = torch.arange(ROWS).roll(-3)
TARGETS[[5, 11]] = -1
PARTNERS = torch.arange(ROWS).flip(0)
PARTNERS[ROWS // 2] = -1
ROW_IDS = torch.arange(ROWS) % 3
ROW_IDS[7] = 8
COL_IDS = torch.arange(COLS) % 3
COL_IDS[2] = 9

Call = Callable[..., ScoreStats]


def one_direction(**given: Any) -> ScoreStats:
    pairs = ~Index(TARGETS) & Equal(ROW_IDS, COL_IDS)
    return log_sum_exp(channels=[Channel(pairs)], positives=TARGETS, **given)


def both_directions(**given: Any) -> ScoreStats:
    own = Index.diagonal(ROWS)
    pairs = ~own & Equal(ROW_IDS, COL_IDS[:ROWS])
    return log_sum_exp(channels=[Channel(pairs)], positives=own, columns=True, **given)


def one_set(**given: Any) -> ScoreStats:
    pairs = ~Index.diagonal(ROWS) & ~Index(PARTNERS)
    return log_sum_exp(channels=[Channel(pairs)], positives=PARTNERS, **given)


def sums(**given: Any) -> ScoreStats:
    own, same = Index(TARGETS), Equal(ROW_IDS, COL_IDS)
    terms = [Term(Phi.SOFTPLUS, ~own & ~same), Term(Phi.SOFTPLUS, ~own & same, factor=-1.0)]
    return pair_sum(terms=terms, positives=TARGETS, **given)


def leaves(cols: int | None = COLS, biases: tuple[str, ...] = BIASES) -> Arguments:
    return inputs(ROWS, cols, scale="0-d", biases=biases)


OMEGA = torch.rand(ROWS, generator=generator(7), dtype=torch.float64)
WEIGHTS = torch.rand(ROWS, generator=generator(8), dtype=torch.float64)
WITHOUT = RowLoss("softmax", some_without=True)
# What is reduced, the loss of its rows, and arguments.
CASES: dict[str, tuple[Call, RowLoss, Callable[[], Arguments]]] = {
    "one direction": (one_direction, WITHOUT, leaves),
    "both directions": (both_directions, RowLoss("softmax", share=0.5), lambda: leaves(ROWS)),
    "one set": (one_set, WITHOUT, lambda: leaves(None, ())),
    "decoupled": (one_direction, RowLoss("decoupled", omega=OMEGA), leaves),
    "sums": (sums, RowLoss("sigmoid", share=0.3), leaves),
}
ONE_WAY = ["one direction", "decoupled", "sums"]
each_case = pytest.mark.parametrize("case", CASES)
each_one_way = pytest.mark.parametrize("case", ONE_WAY)


def composed(stats: ScoreStats, loss: RowLoss, columns: Tensor) -> Tensor:
    """The same of the stats, by torch alone."""
    positive = stats.scores_of_positives
    sides = (*stats.rows, *stats.columns)
    if loss.rule == "sigmoid":
        losses = -torch.nn.functional.logsigmoid(positive)
        full = torch.ones_like(positive, dtype=torch.bool)
        for total in sides:
            losses = losses + total
    else:
        full = ~torch.stack([lse.isneginf() for lse in sides]).any(0)
        if loss.some_without:
            full = full & (columns >= 0)
        losses = torch.zeros_like(positive)
        for lse in sides:
            some = ~lse.isneginf()
            finite = torch.where(some, lse, 0.0)
            if loss.rule == "decoupled":
                own = finite - (positive if loss.omega is None else loss.omega * positive)
            else:
                own = torch.logaddexp(finite, positive) - positive
            losses = losses + torch.where(some, own, 0.0)
        if loss.some_without:
            losses = torch.where(columns >= 0, losses, 0.0)
    if loss.skip:
        losses = torch.where(full, losses, 0.0)
    losses = losses * loss.share
    if loss.weights is not None:
        losses = losses * loss.weights
    if loss.reduction == "none":
        return losses
    total = losses.sum()
    if loss.reduction == "sum":
        return total
    return total / (full.sum() if loss.skip else len(losses))


def columns_of(case: str) -> Tensor:
    return {"one set": PARTNERS, "both directions": torch.arange(ROWS)}.get(case, TARGETS)


def assert_composes(case: str, loss: RowLoss, **options: Any) -> None:
    """The loss and, for an upstream gradient that is not 1, the gradients of all leaves."""
    call, _, arguments = CASES[case]
    # Of the reference: the stats themselves are on trial elsewhere.
    got, expected = (
        evaluate_all(function, arguments())
        for function in (
            lambda given: {"loss": call(**given, row_loss=loss, **options).loss},
            lambda given: {
                "loss": composed(call(**given, backend="reference"), loss, columns_of(case))
            },
        )
    )
    assert_results_close(got, expected)


OPTIONS: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum of weighted": {"reduction": "sum", "weights": WEIGHTS},
    "none": {"reduction": "none", "weights": WEIGHTS},
    "skip": {"skip": True},
    "skip, weighted": {"skip": True, "weights": WEIGHTS},
}
each_option = pytest.mark.parametrize("option", OPTIONS)


@each_option
@each_case
def test_it_is_the_composition_of_the_stats(case: str, option: str, engine: dict[str, Any]) -> None:
    assert_composes(case, CASES[case][1]._replace(**OPTIONS[option]), **engine)


@pytest.fixture(params=["compiled", "plain torch"])
def strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A workspace with room for a strip of ragged tiles, not for all of S."""
    monkeypatch.setattr(CpuBackend, "tile", lambda *_: RAGGED)
    monkeypatch.setattr(one_pass, "SHORTEST_STRIP", 1)
    if request.param == "plain torch":
        monkeypatch.setattr(contrastile.native, "load", lambda: None)
    return {"workspace": RAGGED.rows * (COLS + RAGGED.cols) * 8, "backend": "cpu"}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The strips of each forward pass that made gradients."""
    seen: list[int] = []
    original = forward.gradients_at_once

    def watched(job: Any, *rest: Any) -> Any:
        seen.append(len(job.plan.strips))
        return original(job, *rest)

    monkeypatch.setattr(forward, "gradients_at_once", watched)
    return seen


@each_option
@each_case
def test_in_strips_it_is_the_same(
    case: str, option: str, strips: dict[str, Any], at_once: list[int]
) -> None:
    """Of one direction, and a loss that is one number, gradients are made in the forward pass."""
    loss = CASES[case][1]._replace(**OPTIONS[option])
    assert_composes(case, loss, **strips)
    known = case in ONE_WAY and loss.reduction != "none" and not loss.skip
    assert at_once == ([5] if known else [])


@each_one_way
def test_any_upstream_gradient_and_many_of_them(
    case: str, strips: dict[str, Any], at_once: list[int]
) -> None:
    call, loss, arguments = CASES[case]
    given = arguments()
    wanted = [tensor for tensor in given.values() if isinstance(tensor, Tensor)]
    own = call(**given, row_loss=loss, **strips).loss
    other = composed(call(**given, backend="reference"), loss, columns_of(case))
    assert own is not None and at_once
    for factor in (1.0, 2.5, -1.0, 0.0, 1e200):
        got, true = (
            torch.autograd.grad(value * factor, wanted, retain_graph=True) for value in (own, other)
        )
        torch.testing.assert_close(got, true, rtol=1e-10, atol=abs(factor) * 1e-12)


@pytest.mark.parametrize("name", ["query", "key", "scale", *BIASES])
@each_one_way
def test_a_gradient_of_one_alone(
    case: str, name: str, strips: dict[str, Any], at_once: list[int]
) -> None:
    call, loss, arguments = CASES[case]
    found = []
    for only in (False, True):
        given = arguments()
        for other, tensor in given.items():
            if isinstance(tensor, Tensor) and only and other != name:
                tensor.requires_grad_(False)
        value = call(**given, row_loss=loss, **strips).loss
        found.append(torch.autograd.grad(value, given[name])[0])
    assert len(at_once) == 2 and torch.equal(*found)


@each_one_way
def test_without_a_gradient_none_is_made(
    case: str, strips: dict[str, Any], at_once: list[int]
) -> None:
    call, loss, arguments = CASES[case]
    with_gradient = call(**arguments(), row_loss=loss, **strips).loss
    assert len(at_once) == 1
    with torch.no_grad():
        value = call(**arguments(), row_loss=loss, **strips).loss
    assert len(at_once) == 1 and not value.requires_grad
    torch.testing.assert_close(value, with_gradient.detach(), rtol=1e-14, atol=0.0)


@each_case
def test_the_stats_are_shown_if_asked_for(case: str, engine: dict[str, Any]) -> None:
    call, loss, arguments = CASES[case]
    given = {**arguments(), **engine, "ranks": True}
    alone = call(**given, row_loss=loss)
    assert alone == ScoreStats(loss=alone.loss)
    shown = call(**given, row_loss=loss._replace(shows=True))
    plain = call(**given)
    assert torch.equal(shown.loss, alone.loss) and shown.loss.requires_grad
    for name in ("rows", "columns"):
        for mine, right in zip(getattr(shown, name), getattr(plain, name), strict=True):
            assert torch.equal(mine, right) and not mine.requires_grad
    for name in ("positive", "row_rank", "col_rank"):
        mine, right = getattr(shown, name), getattr(plain, name)
        assert (mine is None) == (right is None)
        assert mine is None or (torch.equal(mine, right) and not mine.requires_grad)


def test_gradients_of_half_precision_wait_for_their_scale(
    strips: dict[str, Any], at_once: list[int]
) -> None:
    """As with a gradient scaler: rounded to fp16 for a gradient of 1 they would be zero."""
    rng = generator(1)
    query, key = (torch.randn(n, 8, generator=rng).half() for n in (ROWS, COLS))
    options = {**strips, "workspace": strips["workspace"] // 2}

    def gradients(share: float) -> tuple[Tensor, ...]:
        pair = query.clone().requires_grad_(), key.clone().requires_grad_()
        stats = one_direction(
            query=pair[0], key=pair[1], row_loss=WITHOUT._replace(share=share), **options
        )
        return torch.autograd.grad(stats.loss / share, pair)

    small, plain = gradients(2.0**-24), gradients(1.0)
    assert len(at_once) == 2
    for mine, right in zip(small, plain, strict=True):
        assert torch.equal(mine, right) and bool(right.any())


WRONG: dict[str, tuple[Call, RowLoss, dict[str, Any], str]] = {
    "rule": (one_direction, RowLoss("hinge"), {}, "the rule of row_loss must be one of"),
    "reduction": (one_direction, RowLoss("softmax", "max"), {}, "the reduction of row_loss"),
    "channel of a sum": (sums, RowLoss("softmax"), {}, "the rule 'softmax' reads 1 Channel"),
    "sum of a channel": (one_direction, RowLoss("sigmoid"), {}, "the rule 'sigmoid' reads 3 Term"),
    "columns": (one_direction, RowLoss("decoupled"), {"columns": True}, "is of rows alone"),
    "no rows": (
        one_direction,
        RowLoss("softmax"),
        {"rows": False, "columns": True},
        "needs rows, and as many columns",
    ),
    "more columns": (one_direction, RowLoss("softmax"), {"columns": True}, "as many columns"),
    "one of several": (one_direction, RowLoss("several"), {}, "reads 2 Channel"),
    "weights": (one_direction, RowLoss("softmax", weights=WEIGHTS[1:]), {}, "weights must have"),
    "learned weights": (
        one_direction,
        RowLoss("softmax", weights=WEIGHTS.clone().requires_grad_()),
        {},
        "weights of a row_loss get no gradient",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_formed_is_refused(case: str) -> None:
    call, loss, options, says = WRONG[case]
    with pytest.raises(InputError, match=says):
        call(**leaves(), row_loss=loss, **options)


def test_positives_are_needed() -> None:
    with pytest.raises(InputError, match="the rule 'softmax' needs positives"):
        log_sum_exp(**leaves(), row_loss=RowLoss("softmax"))
    with pytest.raises(InputError, match="needs row_count where that side is reduced"):
        log_sum_exp(**leaves(), channels=[Channel(), Channel()], row_loss=RowLoss("several"))
    with pytest.raises(TypeError, match="row_loss must be a RowLoss, got str"):
        log_sum_exp(**leaves(), row_loss="softmax")  # type: ignore[arg-type]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_learned_weights_where_nothing_is_learned(context: Callable[[], Any]) -> None:
    """As a model is validated."""
    weights = torch.nn.Parameter(torch.rand(6))
    loss = ClipLoss(temperature=0.1, weights=weights)
    x = torch.eye(6)
    expected = loss(x, x.roll(1)).detach()
    with context():
        torch.testing.assert_close(loss(x, x.roll(1)), expected)


def test_saved_numbers_may_be_kept_in_fewer_bits() -> None:
    """By a hook that rounds floating point numbers, as those that compress activations do."""
    torch.manual_seed(0)
    x, y = torch.randn(9, 5).requires_grad_(), torch.randn(9, 5)

    def pack(tensor: Tensor) -> tuple[torch.dtype, Tensor]:
        single = tensor.dtype == torch.float64
        return tensor.dtype, tensor.float() if single else tensor

    def unpack(packed: tuple[torch.dtype, Tensor]) -> Tensor:
        return packed[1].to(packed[0])

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        loss = clip_loss(x, y, temperature=1.0)
    (found,) = torch.autograd.grad(loss, x)
    (expected,) = torch.autograd.grad(clip_loss(x, y, temperature=1.0), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_dtype_is_that_of_the_embeddings(margin: float, reduction: str) -> None:
    x, double = torch.eye(6), torch.rand(6, dtype=torch.float64)
    for weights in (double, double.requires_grad_()):
        loss = clip_loss(
            x, x, logit_scale=double, weights=weights, margin=margin, reduction=reduction
        )
        assert loss.dtype == torch.float32


def test_one_key_has_its_own_bias_beside_further_negatives() -> None:
    torch.manual_seed(0)
    query, key, negatives = torch.randn(1, 3), torch.randn(1, 3), torch.randn(3, 3)
    bias = torch.tensor([2.5], requires_grad=True)
    loss = info_nce(query, key, negatives=negatives, logit_scale=1.0, logit_bias=bias)
    scores = torch.cat([query @ key.T + bias, query @ negatives.T], 1)
    expected = scores.logsumexp(1)[0] - scores[0, 0]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, bias) for value in (loss, expected)))
