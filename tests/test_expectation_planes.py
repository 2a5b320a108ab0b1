"""Expectations: pairs that a plane decides on, planes that are not there, a scale of zero."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from contrastile import InputError
from contrastile.ops import expectation
from contrastile.problem import Above, Channel, Plane, Reduction
from dense import compare
from test_expectation import PAIRS, SCALES, dense, leaves, ours

pytestmark = pytest.mark.usefixtures("poisoned_empty")


@pytest.mark.parametrize("plane", [0, 1])
@pytest.mark.parametrize("side", ["rows", "columns"])
def test_pairs_that_a_plane_decides_on(plane: int, side: str, backend: str) -> None:
    """The same pairs in all sweeps, numbers of ``under`` with the scale."""
    given = leaves()
    with torch.no_grad():
        values = (given["x"][:, 2:8] @ given["y"][:, 2:8].T) * given["b"]
        under = (given["u"] @ given["v"].T) * given["a"][:, None] * given["s"]
        numbers = (values, under)[plane]
        limits = numbers.quantile(0.61, dim=1 if side == "rows" else 0)
        kept = numbers > (limits[:, None] if side == "rows" else limits)
    pairs = Above(plane, **{side: limits})
    compare(
        lambda own: ours(own, pairs, columns=True, backend=backend),
        lambda own: dense(own, kept),
        given,
    )


def test_powers_are_relative_to_those_of_the_same_pairs() -> None:
    """Of pairs of another plane they would be beyond all numbers."""
    of = Plane(torch.full((2, 1), 500.0), torch.tensor([[1.0], [0.9]]))
    under = Plane(torch.full((2, 1), 200.0), torch.ones(2, 1))
    found = expectation(of, under, pairs=Above(0, rows=torch.full((2,), 300.0)))
    torch.testing.assert_close(found.rows, torch.full((2,), 475.0))
    torch.testing.assert_close(found.row_lse, torch.full((2,), 200.0 + math.log(2.0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"others": None}, "others must be a list of Reduction"),
        ({"others": [Reduction(2, [Channel()])]}, "planes are 0, of, and 1, .* got number 2"),
        ({"pairs": Above(2, rows=torch.zeros(2))}, "planes are 0, of, and 1, .* got number 2"),
    ],
    ids=["nothing", "a further plane", "a further plane's numbers"],
)
def test_planes_that_are_not_there(changes: dict[str, Any], message: str) -> None:
    x = torch.eye(2)
    with pytest.raises((InputError, TypeError), match=f"^expectation: {message}"):
        expectation(Plane(x, x), Plane(x, x), **changes)


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_of_zero_has_its_gradient(scale: str, backend: str) -> None:
    given = leaves(scale)
    given["s"] = torch.zeros_like(given["s"]).requires_grad_()
    pairs, kept = PAIRS["off the diagonal"]
    compare(
        lambda own: ours(own, pairs, columns=True, backend=backend),
        lambda own: dense(own, kept),
        given,
    )
