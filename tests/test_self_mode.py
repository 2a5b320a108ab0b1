"""One embedding set on both sides: one triangle of S where it is symmetric, all of it elsewhere."""

from __future__ import annotations

from typing import Any

import contrastile.functional as losses
import pytest
import torch
from contrastile.engine.node import ReduceScores
from contrastile.ops import log_sum_exp, pair_sum
from contrastile.problem import Channel, Equal, Index, Phi, Term
from dense import PHI, DenseChannel, DenseTerm, compare, everything, inputs, named, reduced
from helpers import generator, overlapping_pairs

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROWS = 23
Kind = tuple[Any, torch.Tensor]


def own() -> Kind:
    return ~Index.diagonal(ROWS), ~torch.eye(ROWS, dtype=torch.bool)


def labels() -> Kind:
    ids = torch.randint(0, 5, (ROWS,), generator=generator(3))
    return Equal(ids, ids), ids[:, None] == ids


def partners() -> Kind:
    """An involution: i and its partner point at each other, some rows have none."""
    columns = torch.arange(ROWS).flip(0)
    columns[ROWS // 2] = -1
    return ~Index(columns), columns[:, None] != torch.arange(ROWS)


def one_way() -> Kind:
    """Not symmetric: row i leaves out i + 1."""
    columns = torch.arange(ROWS).roll(-1)
    return ~Index(columns), columns[:, None] != torch.arange(ROWS)


def directed_labels() -> Kind:
    rows, cols = (torch.randint(0, 4, (ROWS,), generator=generator(seed)) for seed in (1, 2))
    return Equal(rows, cols), rows[:, None] == cols


def both(one: Kind, other: Kind) -> Kind:
    return one[0] & other[0], one[1] & other[1]


SYMMETRIC = {
    "everything": lambda: (None, torch.ones(ROWS, ROWS, dtype=torch.bool)),
    "others": own,
    "labels": labels,
    "partners": partners,
    "others of the label": lambda: both(own(), labels()),
    "neither own nor partner": lambda: both(own(), partners()),
}
ASYMMETRIC = {
    "one way": one_way,
    "directed labels": directed_labels,
    "others, one way": lambda: both(own(), one_way()),
}


@pytest.fixture
def triangles(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each reduction of the test took one triangle only."""
    seen: list[bool] = []
    forward = ReduceScores.forward

    def watched(ctx: Any, backend: Any, spec: Any, *rest: Any) -> Any:
        seen.append(spec.triangle)
        return forward(ctx, backend, spec, *rest)

    monkeypatch.setattr(ReduceScores, "forward", staticmethod(watched))
    return seen


@pytest.mark.parametrize("scale", ["float", "0-d", "one"])
@pytest.mark.parametrize("pairs", SYMMETRIC)
def test_log_sum_exp_of_one_triangle(
    pairs: str, scale: str, triangles: list[bool], engine: dict[str, Any]
) -> None:
    predicate, kept = SYMMETRIC[pairs]()
    channels = [Channel(predicate), Channel(factor=-0.5, class_log_weights=((labels()[0], 0.7),))]
    dense = [DenseChannel(kept), DenseChannel(SYMMETRIC["everything"]()[1], -0.5)]
    dense[1] = DenseChannel(dense[1].kept, -0.5, class_log_weights=[(labels()[1], 0.7)])
    compare(
        lambda given: named(log_sum_exp(**given, channels=channels, **engine)),
        lambda given: reduced(given, dense),
        inputs(ROWS, None, scale=scale),
    )
    assert all(triangles) and triangles


@pytest.mark.parametrize("phi", PHI)
@pytest.mark.parametrize("pairs", SYMMETRIC)
def test_pair_sum_of_one_triangle(
    pairs: str, phi: str, triangles: list[bool], engine: dict[str, Any]
) -> None:
    predicate, kept = SYMMETRIC[pairs]()
    compare(
        lambda given: named(
            pair_sum(**given, terms=[Term(Phi[phi], predicate, factor=-1.5)], **engine)
        ),
        lambda given: reduced(given, [DenseTerm(phi, kept, -1.5)]),
        inputs(ROWS, None, scale="0-d"),
    )
    assert all(triangles) and triangles


@pytest.mark.parametrize("pairs", ASYMMETRIC)
def test_pairs_that_are_not_symmetric(
    pairs: str, triangles: list[bool], engine: dict[str, Any]
) -> None:
    predicate, kept = ASYMMETRIC[pairs]()
    compare(
        lambda given: named(log_sum_exp(**given, channels=[Channel(predicate)], **engine)),
        lambda given: reduced(given, [DenseChannel(kept)]),
        inputs(ROWS, None, scale="0-d"),
    )
    compare(
        lambda given: named(pair_sum(**given, terms=[Term(Phi.SOFTPLUS, predicate)], **engine)),
        lambda given: reduced(given, [DenseTerm("SOFTPLUS", kept)]),
        inputs(ROWS, None, scale="0-d"),
    )
    assert triangles and not any(triangles)


@pytest.mark.parametrize("scale", ["0-d", "per row"])
@pytest.mark.parametrize("biases", [(), ("row_bias",), ("col_bias",)], ids=str)
@pytest.mark.parametrize("columns", [False, True])
def test_scores_that_are_not_symmetric(
    columns: bool,
    biases: tuple[str, ...],
    scale: str,
    triangles: list[bool],
    engine: dict[str, Any],
) -> None:
    predicate, kept = own()
    compare(
        lambda given: named(
            log_sum_exp(**given, channels=[Channel(predicate)], columns=columns, **engine)
        ),
        lambda given: reduced(given, [DenseChannel(kept)], columns=columns),
        inputs(ROWS, None, scale=scale, biases=biases),
    )
    symmetric = scale == "0-d" and not biases and not columns
    assert triangles and all(taken == symmetric for taken in triangles)


@pytest.mark.parametrize("side", ["row_log_weight", "col_log_weight"])
def test_weights_that_are_not_symmetric(side: str, engine: dict[str, Any]) -> None:
    weight = torch.randn(ROWS, generator=generator(4), dtype=torch.float64)
    kept = SYMMETRIC["everything"]()[1]
    compare(
        lambda given: named(log_sum_exp(**given, channels=[Channel(**{side: weight})], **engine)),
        lambda given: reduced(given, [DenseChannel(kept, **{side: weight})]),
        inputs(ROWS, None),
    )


def test_thresholds_are_not_symmetric(engine: dict[str, Any]) -> None:
    theta = torch.randn(ROWS, generator=generator(4), dtype=torch.float64)
    kept = SYMMETRIC["everything"]()[1]
    compare(
        lambda given: named(
            pair_sum(**given, terms=[Term(Phi.SQUARE, threshold=theta)], columns=True, **engine)
        ),
        lambda given: reduced(given, [DenseTerm("SQUARE", kept, threshold=theta)], columns=True),
        inputs(ROWS, None),
    )


def test_the_query_as_its_own_key(triangles: list[bool], engine: dict[str, Any]) -> None:
    """``log_sum_exp(z, z)`` is ``log_sum_exp(z)``; a copy on the other side is not."""
    arguments = inputs(ROWS, None)
    query = arguments["query"]
    alone = log_sum_exp(query, **engine).rows[0]
    assert torch.equal(log_sum_exp(query, query, **engine).rows[0], alone)
    assert triangles == [True, True]
    apart = log_sum_exp(query, query.clone(), **engine).rows[0]
    torch.testing.assert_close(apart, alone, rtol=1e-12, atol=1e-12)
    assert triangles[2:] == [False]


@pytest.mark.parametrize("columns", [False, True])
def test_positives_of_the_self_mode(columns: bool, engine: dict[str, Any]) -> None:
    targets = torch.arange(ROWS).roll(-3)
    targets[5] = -1
    predicate, kept = own()

    def dense(given: dict[str, Any]) -> dict[str, torch.Tensor]:
        scores = given["scale"] * given["query"] @ given["query"].T
        positive = torch.where(targets < 0, 0.0, scores[torch.arange(ROWS), targets])
        return {**reduced(given, [DenseChannel(kept)], columns=columns), "positive": positive}

    def ours(given: dict[str, Any]) -> dict[str, torch.Tensor]:
        channels = [Channel(predicate)]
        stats = log_sum_exp(
            **given, channels=channels, positives=targets, columns=columns, **engine
        )
        return {**named(stats), "positive": stats.positive}

    for used in (None, ["positive"], ["rows 0"]):
        compare(ours, dense, inputs(ROWS, None, scale="0-d"), used)


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 12, 64])
def test_sizes(rows: int, engine: dict[str, Any]) -> None:
    arguments = inputs(rows, None, scale="0-d")
    compare(
        lambda given: named(
            log_sum_exp(**given, channels=[Channel(~Index.diagonal(rows)), Channel()], **engine)
        ),
        lambda given: reduced(
            given,
            [DenseChannel(~torch.eye(rows, dtype=torch.bool)), DenseChannel(everything(given))],
        ),
        arguments,
    )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("rows", [5, 300])
def test_a_product_that_is_not_symmetric_to_the_last_bit(
    rows: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A BLAS of many threads gives such; one half of a block on the diagonal decides."""
    multiply = torch.mm

    def uneven(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        multiply(a, b, out=out)
        return out.sub_(out.tril(-1) * 1e-3) if len(out) == out.shape[1] else out

    z0, z1 = (t.float() for t in overlapping_pairs(rows, rows, 16, generator(0)))
    found = []
    for product in (multiply, uneven):
        monkeypatch.setattr(torch, "mm", product)
        leaves = [z0.clone().requires_grad_(), z1.clone().requires_grad_()]
        loss = losses.nt_xent(*leaves, logit_scale=100.0, backend=backend)
        loss.backward()
        found.append((loss.detach(), *(leaf.grad for leaf in leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
