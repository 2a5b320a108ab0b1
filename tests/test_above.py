"""Pairs by a plane's number against a limit, against dense fp64: the same pairs in both passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contrastile.ops import log_sum_exp, pair_sum, sweep
from contrastile.problem import (
    Above,
    Channel,
    Equal,
    Index,
    InputError,
    Pairs,
    Phi,
    Plane,
    Reduction,
    Term,
)
from contrastile.problem.part import Part
from dense import DenseChannel, DenseTerm, compare, inputs, named, reduced
from helpers import Arguments, generator
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROWS, COLS = 23, 31
NUMBERS = generator(5)
GUIDE = torch.randn(ROWS, 4, generator=NUMBERS, dtype=torch.float64)
GUIDE_KEY = torch.randn(COLS, 4, generator=NUMBERS, dtype=torch.float64)
V = GUIDE @ GUIDE_KEY.T
OF_ROWS = V[:, 7] - 0.25
OF_COLS = torch.randn(COLS, generator=NUMBERS, dtype=torch.float64)
BEYOND = OF_ROWS.clone()
BEYOND[::3], BEYOND[1::3], BEYOND[2] = torch.inf, -torch.inf, torch.nan
IDS = torch.arange(ROWS) % 4, torch.arange(COLS) % 5
HOLE = torch.arange(ROWS)
# fp64 and numbers of fp64, one of them of the plane itself, to the last bit.
KINDS: dict[str, Callable[[], tuple[Pairs, Tensor]]] = {
    "rows": lambda: (Above(1, rows=OF_ROWS), OF_ROWS[:, None] < V),
    "columns": lambda: (Above(1, columns=OF_COLS), V > OF_COLS),
    "not rows": lambda: (~Above(1, rows=OF_ROWS), ~(OF_ROWS[:, None] < V)),
    "beyond all, and no number": lambda: (Above(1, rows=BEYOND), BEYOND[:, None] < V),
    "not beyond": lambda: (~Above(1, rows=BEYOND), ~(BEYOND[:, None] < V)),
    "with others": lambda: (
        (Above(1, rows=OF_ROWS) | ~Above(1, columns=OF_COLS)) & ~Equal(*IDS) & ~Index(HOLE),
        ((OF_ROWS[:, None] < V) | ~(V > OF_COLS))
        & (IDS[0][:, None] != IDS[1])
        & (HOLE[:, None] != torch.arange(COLS)),
    ),
}


def planes(given: Arguments) -> list[Plane]:
    return [Plane(given["query"], given["key"]), Plane(GUIDE, GUIDE_KEY)]


@pytest.mark.parametrize("name", KINDS)
def test_log_sum_exp(name: str, engine: dict[str, Any]) -> None:
    pairs, kept = KINDS[name]()
    classes = ((pairs, 1.5), (~pairs, -0.5))
    channels = [Channel(pairs), Channel(~pairs), Channel(class_log_weights=classes)]
    everything = torch.ones(ROWS, COLS, dtype=torch.bool)
    dense = [
        DenseChannel(kept),
        DenseChannel(~kept),
        DenseChannel(everything, class_log_weights=[(kept, 1.5), (~kept, -0.5)]),
    ]

    def ours(given: Arguments) -> dict[str, Tensor]:
        asked = Reduction(channels=channels, scale=given["scale"], columns=True)
        return named(*sweep(planes(given), [asked], **engine))

    compare(ours, lambda g: reduced(g, dense, columns=True), inputs(ROWS, COLS, scale="0-d"))


@pytest.mark.parametrize("name", KINDS)
def test_pair_sum(name: str, engine: dict[str, Any]) -> None:
    pairs, kept = KINDS[name]()
    terms = [Term(Phi.SQUARE, pairs), Term(Phi.SOFTPLUS, ~pairs, factor=-1.0)]
    dense = [DenseTerm("SQUARE", kept), DenseTerm("SOFTPLUS", ~kept, -1.0)]

    def ours(given: Arguments) -> dict[str, Tensor]:
        asked = Reduction(terms=terms, scale=given["scale"], columns=True)
        return named(*sweep(planes(given), [asked], **engine))

    compare(ours, lambda g: reduced(g, dense, columns=True), inputs(ROWS, COLS, scale="0-d"))


def test_a_plane_against_itself(engine: dict[str, Any]) -> None:
    """Hard pairs: those above the row's own positive, to the last bit of what both passes see."""
    given = inputs(ROWS, COLS)
    scores = given["query"].detach() @ given["key"].detach().T
    limits = scores[:, 3].clone().requires_grad_()
    kept = scores > limits[:, None]

    def ours(given: Arguments) -> dict[str, Tensor]:
        asked = Reduction(channels=[Channel(Above(0, rows=limits - 1e-9))], scale=1.7)
        return named(*sweep([Plane(given["query"], given["key"])], [asked], **engine))

    kept[:, 3] = True
    compare(ours, lambda g: reduced(g, [DenseChannel(kept)]), given)
    assert limits.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_limits_are_rounded_to_the_planes_dtype(dtype: torch.dtype, engine: dict[str, Any]) -> None:
    """Whatever they come in: 1 / 3 in fp64 is 1 / 3 in fp32 there."""
    ones = torch.ones(3, 1)
    guide = torch.full((3, 1), 1 / 3)
    limits = torch.tensor([1 / 3, 0.25, 0.5], dtype=torch.float64)
    asked = Reduction(terms=[Term(Phi.IDENTITY, Above(1, rows=limits))], columns=True)
    (stats,) = sweep([Plane(ones.to(dtype)), Plane(guide, ones)], [asked], **engine)
    assert stats.rows[0].tolist() == [0.0, 3.0, 0.0]
    assert stats.columns[0].tolist() == [1.0, 1.0, 1.0]


def test_wider_limits_for_wider_planes(engine: dict[str, Any]) -> None:
    """Any embedding in fp64 puts all planes in fp64."""
    ones = torch.ones(3, 1)
    guide = torch.full((3, 1), 1 / 3, dtype=torch.float64)
    limits = torch.tensor([1 / 3 - 1e-16, 1 / 3, 1 / 3 + 1e-16], dtype=torch.float64)
    asked = Reduction(terms=[Term(Phi.IDENTITY, Above(1, columns=limits))], columns=True)
    (stats,) = sweep([Plane(ones), Plane(guide, ones.double())], [asked], **engine)
    assert stats.columns[0].tolist() == [3.0, 0.0, 0.0]


def test_refusals() -> None:
    x, limits = torch.ones(4, 2), torch.zeros(4)

    def refused(message: str, pairs: Pairs, error: type[Exception] = InputError) -> None:
        with pytest.raises(error, match=f"^sweep: {message}"):
            sweep([Plane(x)], [Reduction(channels=[Channel(pairs)])])

    refused("there are 1 planes, Above asks for number 1", Above(1, rows=limits))
    refused("there are 1 planes, Above asks for number -1", ~Above(-1, rows=limits))
    refused(r"Above.rows needs one entry a row, \(4,\), got \(3,\)", Above(0, rows=limits[:3]))
    integers = limits.long()
    refused("Above.columns must be floating point, got torch.int64", Above(0, columns=integers))
    refused("Above.rows must be a tensor, got float", Above(0, rows=1.0), TypeError)  # type: ignore[arg-type]
    alone = r"Above compares the numbers of a plane, and only ops.sweep has planes"
    with pytest.raises(InputError, match=f"^log_sum_exp: {alone}"):
        log_sum_exp(x, channels=[Channel(Above(0, rows=limits))])
    with pytest.raises(InputError, match=f"^pair_sum: {alone}"):
        pair_sum(x, terms=[Term(Phi.RELU, ~Above(0, rows=limits))])
    with pytest.raises(InputError, match=r"^log_sum_exp: Above compares"):
        weighted = Channel(class_log_weights=((Above(0, rows=limits), 1.0),))
        log_sum_exp(x, channels=[weighted])
    with pytest.raises(InputError, match=r"^Above: limits are one a row or one a column"):
        Above(0)
    with pytest.raises(InputError, match=r"^Above: limits are one a row or one a column"):
        Above(0, rows=limits, columns=limits)
    with pytest.raises(TypeError, match=r"^Above: plane must be the number of a plane, got str"):
        Above("guide", rows=limits)  # type: ignore[arg-type]


def test_some_rows_and_columns() -> None:
    part = Part(slice(1, 3), slice(2, 3), torch.device("cpu"))
    numbers = torch.arange(4.0)
    rows, columns = Above(0, rows=numbers).among(part), Above(1, columns=numbers).among(part)
    assert (rows.plane, columns.plane) == (0, 1)
    assert rows.rows is not None and rows.rows.tolist() == [1.0, 2.0] and rows.columns is None
    assert columns.columns is not None and columns.columns.tolist() == [2.0]
    assert not Above(0, rows=numbers).symmetric
