"""Pairs as descriptions: how they compose, which are symmetric, what they refuse."""

from __future__ import annotations

import pytest
import torch
from contrastile.ops import log_sum_exp
from contrastile.problem import (
    And,
    AtMost,
    Channel,
    Equal,
    Index,
    Less,
    Not,
    Or,
    Pairs,
    Within,
)
from dense import inputs

ROWS, COLS = 23, 31


def test_operators_build_the_named_nodes() -> None:
    one, other = Index(torch.arange(3)), Equal(torch.arange(3), torch.arange(3))
    assert isinstance(one & other, And)
    assert isinstance(one | other, Or)
    assert isinstance(~one, Not)


@pytest.mark.parametrize(
    ("pairs", "symmetric"),
    [
        (Index(torch.tensor([0, 1, 2])), True),
        (Index(torch.tensor([1, 0, 2])), True),
        (Index(torch.tensor([1, 0, -1])), True),
        (Index(torch.tensor([1, 2, 0])), False),
        (Index(torch.tensor([1, -1, -1])), False),
        (Equal(torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3])), True),
        (Equal(torch.tensor([1, 2, 3]), torch.tensor([3, 2, 1])), False),
        (Less(torch.tensor([1, 1]), torch.tensor([1, 1])), False),
        (AtMost(torch.tensor([1, 1]), torch.tensor([1, 1])), False),
        (Within(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]), 1.0), True),
        (Within(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), 1.0), False),
        (Within(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]), torch.ones(2)), False),
        (~Index(torch.tensor([1, 0, 2])) & Equal(torch.arange(3), torch.arange(3)), True),
        (~Index(torch.tensor([1, 2, 0])) | Equal(torch.arange(3), torch.arange(3)), False),
    ],
)
def test_symmetry(pairs: Pairs, symmetric: bool) -> None:
    assert pairs.symmetric == symmetric


def test_numbers_need_no_gradient() -> None:
    rows, cols = torch.zeros(ROWS, requires_grad=True), torch.ones(COLS, requires_grad=True)
    arguments = inputs(ROWS, COLS)
    given, other = arguments["query"], arguments["key"]
    for pairs in (Less(rows, cols), Within(rows, cols, torch.full((ROWS,), 2.0))):
        stats = log_sum_exp(given, other, channels=[Channel(pairs)])
        stats.rows[0].sum().backward()
        torch.testing.assert_close(stats.rows[0], (given @ other.T).logsumexp(1))
    assert rows.grad is None and cols.grad is None and given.grad is not None


def test_a_width_is_a_number() -> None:
    with pytest.raises(TypeError, match=r"^Within: width must be a number, or a tensor of one a "):
        Within(torch.zeros(3), torch.zeros(3), "1")  # type: ignore[arg-type]
