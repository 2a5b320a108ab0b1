"""Scores of indexed pairs, and how many kept pairs score above them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contrastile.ops import ScoreStats, log_sum_exp, pair_sum
from contrastile.problem import Channel, Equal, Index, Phi, Term
from dense import DenseChannel, compare, everything, inputs, named, reduced, score_matrix
from helpers import Arguments, generator
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROWS, COLS = 23, 31
SIDES = [(True, False), (False, True), (True, True)]


def targets(seed: int = 7) -> Tensor:
    """A column for each row, none for some, several rows with the same."""
    return torch.randint(-1, COLS // 3, (ROWS,), generator=generator(seed))


def with_positive(stats: ScoreStats) -> dict[str, Tensor]:
    return {**named(stats), "positive": stats.positive}


def dense_positive(arguments: Arguments, columns: Tensor) -> Tensor:
    scores = score_matrix(**arguments)
    return torch.where(columns < 0, 0.0, scores[torch.arange(len(scores)), columns])


@pytest.mark.parametrize("used", [None, ["positive"], ["rows 0"]], ids=str)
@pytest.mark.parametrize("scale", ["float", "0-d", "per row"])
def test_scores_of_indexed_pairs(
    scale: str, used: list[str] | None, engine: dict[str, Any]
) -> None:
    columns = targets()
    compare(
        lambda given: with_positive(log_sum_exp(**given, positives=columns, **engine)),
        lambda given: {
            **reduced(given, [DenseChannel(everything(given))]),
            "positive": dense_positive(given, columns),
        },
        inputs(ROWS, COLS, scale=scale, biases=("row_bias", "col_bias")),
        used,
    )


@pytest.mark.parametrize("scale", ["0-d", "per row"])
def test_scores_of_indexed_pairs_from_pair_sum(scale: str, engine: dict[str, Any]) -> None:
    columns = targets()
    arguments = inputs(ROWS, COLS, scale=scale, biases=("row_bias", "col_bias"))
    stats = pair_sum(**arguments, terms=[Term(Phi.IDENTITY)], positives=columns, **engine)
    torch.testing.assert_close(stats.positive, dense_positive(arguments, columns))


def test_no_row_has_a_positive(engine: dict[str, Any]) -> None:
    arguments = inputs(ROWS, COLS, scale="0-d")
    nothing = torch.full((ROWS,), -1)
    stats = log_sum_exp(**arguments, positives=nothing, **engine)
    assert not stats.positive.any()
    gradients = torch.autograd.grad(
        stats.positive.sum(), [arguments[n] for n in ("query", "key", "scale")]
    )
    assert not any(gradient.any() for gradient in gradients)


def test_no_positive_among_no_columns(engine: dict[str, Any]) -> None:
    arguments = inputs(5, 0)
    stats = log_sum_exp(**arguments, positives=torch.full((5,), -1), **engine)
    assert torch.equal(stats.rows[0], torch.full((5,), -torch.inf).double())
    assert not stats.positive.any()


@pytest.mark.parametrize("scale", ["float", "per row"])
@pytest.mark.parametrize("factor", [1.0, 0.3])
@pytest.mark.parametrize("kind", ["channel", "term", "term with threshold"])
def test_ranks_of_positives(kind: str, factor: float, scale: str, engine: dict[str, Any]) -> None:
    columns, ids = targets(), torch.randint(0, 3, (COLS,), generator=generator(1))
    row_ids = torch.randint(0, 3, (ROWS,), generator=generator(2))
    arguments = inputs(ROWS, COLS, scale=scale, biases=("row_bias", "col_bias"))
    pairs = ~Index(columns) & ~Equal(row_ids, ids)
    options = {"positives": columns, "ranks": True, **engine}
    if kind == "channel":
        stats = log_sum_exp(**arguments, channels=[Channel(pairs, factor), Channel()], **options)
    else:
        theta = torch.randn(ROWS, generator=generator(3), dtype=torch.float64)
        term = Term(Phi.RELU, pairs, factor, theta if "threshold" in kind else None)
        stats = pair_sum(**arguments, terms=[term, Term(Phi.IDENTITY)], **options)
    kept = (columns[:, None] != torch.arange(COLS)) & (row_ids[:, None] != ids)
    scores = score_matrix(**arguments)
    above = scores > dense_positive(arguments, columns)[:, None]
    assert stats.col_rank is None and stats.row_rank.dtype == torch.int64
    assert torch.equal(stats.row_rank, (kept & above).sum(1))


@pytest.mark.parametrize("sides", SIDES, ids=["rows", "columns", "both"])
def test_ranks_of_thresholds(sides: tuple[bool, bool], engine: dict[str, Any]) -> None:
    arguments = inputs(ROWS, COLS, scale="per row", biases=("row_bias",))
    rng = generator(4)
    row_theta, col_theta = (torch.randn(n, generator=rng).double() for n in (ROWS, COLS))
    rows, columns = sides
    stats = log_sum_exp(
        **arguments,
        rows=rows,
        columns=columns,
        ranks=True,
        row_thresholds=row_theta,
        col_thresholds=col_theta,
        **engine,
    )
    scores = score_matrix(**arguments)
    for wanted, got, expected in (
        (rows, stats.row_rank, (scores > row_theta[:, None]).sum(1)),
        (columns, stats.col_rank, (scores > col_theta).sum(0)),
    ):
        assert torch.equal(got, expected) if wanted else got is None


def test_ranks_of_the_diagonal_on_both_sides(engine: dict[str, Any]) -> None:
    arguments = inputs(ROWS, ROWS, scale="per row")
    own = Index.diagonal(ROWS)
    stats = log_sum_exp(
        **arguments,
        channels=[Channel(~own)],
        columns=True,
        positives=own.columns,
        ranks=True,
        **engine,
    )
    scores = score_matrix(**arguments)
    others, own_score = ~torch.eye(ROWS, dtype=torch.bool), scores.diagonal()
    assert torch.equal(stats.row_rank, (others & (scores > own_score[:, None])).sum(1))
    assert torch.equal(stats.col_rank, (others & (scores > own_score)).sum(0))


def test_ranks_of_the_self_mode(engine: dict[str, Any]) -> None:
    arguments = inputs(ROWS, None, scale="0-d")
    columns = torch.arange(ROWS).roll(4)
    kept = (columns[:, None] != torch.arange(ROWS)) & ~torch.eye(ROWS, dtype=torch.bool)
    pairs = ~Index(columns) & ~Index.diagonal(ROWS)
    stats = log_sum_exp(
        **arguments, channels=[Channel(pairs)], positives=columns, ranks=True, **engine
    )
    above = score_matrix(**arguments) > dense_positive(arguments, columns)[:, None]
    assert torch.equal(stats.row_rank, (kept & above).sum(1))
    theta = torch.randn(ROWS, generator=generator(4), dtype=torch.float64)
    symmetric = ~Index.diagonal(ROWS)
    stats = log_sum_exp(
        **arguments, channels=[Channel(symmetric)], ranks=True, row_thresholds=theta, **engine
    )
    above = score_matrix(**arguments) > theta[:, None]
    assert torch.equal(stats.row_rank, (above & ~torch.eye(ROWS, dtype=torch.bool)).sum(1))
