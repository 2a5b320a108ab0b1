"""The kernels of losses of rows, by Triton's interpreter: each rule as torch's formula has it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from contrastile.backends.triton import row_loss
from contrastile.ops import log_sum_exp, pair_sum
from contrastile.problem import Channel, Index, Not, Overlap, Phi, Term
from contrastile.problem.row_loss import REDUCTIONS, RowLoss
from helpers import generator
from selected import rest_in_gates
from torch import Tensor

ROWS, SIZE = 20, 6
SWITCHES = list(itertools.product([False, True], repeat=3))
# Those that a rule reads: both sides, several sums, weights of the positives.
KINDS = ["softmax", "softmax of both sides", "decoupled", "sigmoid", "three sums"]


def vectors(*shapes: tuple[int, ...]) -> list[Tensor]:
    rng = generator(5)
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]


def evaluated(
    kind: str, reduction: str, switches: tuple[bool, bool, bool], backend: str
) -> list[Tensor]:
    """The loss and its gradients, with a scale a row and biases if ``switches`` say so; some rows
    have no negative, some no positive.
    """
    weighted, skip, own_scales = switches
    x, y, weights, omega, scale, bias = vectors(
        (ROWS, SIZE), (ROWS, SIZE), (ROWS,), (ROWS,), (ROWS,), (ROWS,)
    )
    leaves = [x.requires_grad_(), y.requires_grad_()]
    given: dict[str, Any] = {"scale": 2.0}
    if own_scales:
        leaves += [scale.requires_grad_(), bias.requires_grad_()]
        given = {"scale": scale, "col_bias": bias}
    rule, _, more = kind.partition(" of ")
    columns = torch.arange(ROWS)
    if rule == "softmax":
        columns[7] = -1
    # Row 3 has no negative.
    masks = torch.ones(ROWS, dtype=torch.int64)
    kept = Not(Index(torch.arange(ROWS))) & Overlap(masks - (torch.arange(ROWS) == 3).long(), masks)
    loss = RowLoss(
        "sigmoid" if kind == "three sums" else rule,
        reduction,
        share=0.5,
        weights=weights if weighted else None,
        omega=omega if rule == "decoupled" and weighted else None,
        skip=skip,
        some_without=rule == "softmax",
    )
    given |= {"positives": Index(columns), "row_loss": loss, "backend": backend}
    if loss.rule == "sigmoid":
        terms = [Term(Phi.SOFTPLUS), Term(Phi.RELU, kept), Term(Phi.IDENTITY)]
        stats = pair_sum(x, y, terms=terms if kind == "three sums" else terms[:1], **given)
    else:
        stats = log_sum_exp(x, y, channels=[Channel(kept)], columns=bool(more), **given)
    assert stats.loss is not None
    upstream = torch.linspace(0.5, 2.0, stats.loss.numel(), dtype=torch.float64)
    gradients = torch.autograd.grad(stats.loss, leaves, upstream.view(stats.loss.shape))
    return [stats.loss, *gradients]


@pytest.mark.parametrize("programs", rest_in_gates(["one program", "several"], ["several"]))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rules(kind: str, reduction: str, programs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = SWITCHES
    if programs == "several":
        cases = SWITCHES[1::3]
        monkeypatch.setattr(row_loss, "SWEEP", 8)
        monkeypatch.setattr(row_loss, "ALONE", 8)
    for switches in cases:
        ours = evaluated(kind, reduction, switches, "triton")
        plain = evaluated(kind, reduction, switches, "reference")
        for found, expected in zip(ours, plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_a_sum_of_rows_has_one_order() -> None:
    first, second = (evaluated("softmax", "mean", (True, True, False), "triton") for _ in "12")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
