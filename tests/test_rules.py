"""Each rule of rows is written twice, as a value and as its slopes: the second differentiates."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contrastile.engine.rules import Seen, Slopes, evaluated, loss_of, scaled, slopes_of
from contrastile.problem.row_loss import REDUCTIONS
from contrastile.problem.spec import NONE, Rule
from helpers import generator
from torch import Tensor

ROWS = 9
# A name, how many stats of rows and of columns it reads, and whether its positives have weights.
KINDS = [
    ("softmax", 1, 0, False),
    ("softmax", 1, 1, False),
    ("decoupled", 1, 0, False),
    ("decoupled", 1, 0, True),
    ("sigmoid", 1, 0, False),
    ("sigmoid", 2, 0, False),
    ("sigmoid", 3, 0, False),
]
# Weights of rows, the mean over full rows alone, rows without a positive (which softmax has alone).
SWITCHES = list(itertools.product([False, True], repeat=3))
CASES = [
    pytest.param(kind, own, id=f"{kind[0]} {kind[1]}+{kind[2]}{' omega' * kind[3]} {own}")
    for kind, own in itertools.product(KINDS, SWITCHES)
    if kind[0] == "softmax" or not own[2]
]

each_case = pytest.mark.parametrize(("kind", "switches"), CASES)
each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def rule_of(kind: tuple[Any, ...], reduction: str, switches: tuple[bool, ...]) -> Rule:
    """A rule of these options; what others read is not there."""
    _, skip, some_without = switches
    options: dict[str, Any] = dict.fromkeys(Rule._fields, NONE)
    return Rule(
        **options
        | {
            "name": kind[0],
            "reduction": reduction,
            "share": 0.5,
            "skip": skip,
            "some_without": some_without,
            "shows": False,
        }
    )


def seen_of(
    kind: tuple[Any, ...], some_without: bool, dtype: torch.dtype = torch.float64
) -> tuple[Seen, Tensor]:
    """Stats from where a softmax is flat to where it is settled, some of them of no pair; and
    the weights of rows.
    """
    name, rows, cols, has_omega = kind
    rng = generator(3)

    def vector(spread: float = 20.0) -> Tensor:
        return (spread * torch.randn(ROWS, generator=rng, dtype=torch.float64)).to(dtype)

    of_rows, of_cols = ([vector() for _ in range(count)] for count in (rows, cols))
    if name == "sigmoid":
        of_rows = [own.abs() for own in of_rows]
    else:
        of_rows[0][2] = -torch.inf
        for own in of_cols:
            own[5] = -torch.inf
    positive, weights = vector(), vector(1.0)
    paired = None
    if some_without:
        paired = torch.arange(ROWS) % 4 != 1
        positive[~paired] = 0.0
    omega = vector(1.0) if has_omega else None
    return Seen(tuple(of_rows), tuple(of_cols), positive, omega, paired), weights


def flat(slopes: Slopes) -> list[Tensor]:
    return [own for own in (*slopes.rows, *slopes.cols, slopes.positive) if own is not None]


@each_case
@each_reduction
def test_slopes_are_the_derivative(
    kind: tuple[Any, ...], reduction: str, switches: tuple[bool, ...]
) -> None:
    rule, (seen, weights) = rule_of(kind, reduction, switches), seen_of(kind, switches[2])
    own = weights if switches[0] else None
    leaves = [t.clone().requires_grad_() for t in (*seen.rows, *seen.cols, seen.positive)]
    rows, cols = len(seen.rows), len(seen.cols)
    tracked = seen._replace(
        rows=tuple(leaves[:rows]), cols=tuple(leaves[rows : rows + cols]), positive=leaves[-1]
    )
    loss = loss_of(rule, tracked, own)
    upstream = torch.linspace(0.5, 2.0, loss.numel(), dtype=loss.dtype).view(loss.shape)
    expected = torch.autograd.grad(loss, leaves, upstream)
    slopes = scaled(slopes_of(rule, seen, own, ROWS), upstream, upstream)
    for ours, theirs in zip(flat(slopes), expected, strict=True):
        # Where a stat is of no pair, the derivative of its exponential is 0.
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


def job_of(rule: Rule, seen: Seen, weights: Tensor | None) -> Any:
    """The part of a job that a rule reads."""
    columns = torch.arange(ROWS)
    if seen.paired is not None:
        columns = columns.masked_fill(~seen.paired, -1)
    tensors = [columns]
    if weights is not None:
        rule = rule._replace(weights=len(tensors))
        tensors.append(weights)
    return SimpleNamespace(
        spec=SimpleNamespace(rule=rule, positives=0),
        sizes=SimpleNamespace(n=ROWS),
        tensors=tensors,
        tensor=lambda slot: None if slot == NONE else tensors[slot],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_case
@each_reduction
def test_compiled_rules_are_these(
    kind: tuple[Any, ...], reduction: str, switches: tuple[bool, ...], dtype: torch.dtype
) -> None:
    rule, (seen, weights) = rule_of(kind, reduction, switches), seen_of(kind, switches[2], dtype)
    own = weights if switches[0] else None
    loss, slopes = evaluated(job_of(rule, seen, own), seen, True)
    assert slopes is not None
    expected = loss_of(rule, seen, own), *flat(slopes_of(rule, seen, own, ROWS))
    tolerance = 4 * torch.finfo(dtype).eps
    for ours, theirs in zip((loss, *flat(slopes)), expected, strict=True):
        limit = tolerance * float(theirs.abs().max())
        torch.testing.assert_close(
            ours, theirs.expand_as(ours).contiguous(), rtol=tolerance, atol=limit
        )
