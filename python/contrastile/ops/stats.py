"""What a primitive returns, and the call that both reductions share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..backends import choose
from ..engine.functions import ReduceScores
from ..engine.one_pass import Expected
from ..problem import Problem, Scores
from ..problem.storage import check_storage


class ScoreStats(NamedTuple):
    """Per-row and per-column stats of the scores.

    Attributes:
        rows: one [N] vector a channel (or term); empty if rows were not asked for.
        columns: one [M] vector a channel (or term); empty if columns were not asked for.
        positive: scores of the indexed pairs [N], 0 where there is none; None without positives.
        row_rank: number of pairs kept by the first channel that score above the row's positive
            (or threshold) [N], int64; None unless asked for.
        col_rank: the same for columns [M].
        row_gap: log of the mean of e^S less the mean of S over the pairs kept by the last channel
            (Jensen's gap, never below 0 but for rounding), 0 for fewer than two [N]. None unless
            ``row_counts`` were given.
        col_gap: the same for columns [M].
    """

    rows: tuple[Tensor, ...]
    columns: tuple[Tensor, ...]
    positive: Tensor | None
    row_rank: Tensor | None
    col_rank: Tensor | None
    row_gap: Tensor | None = None
    col_gap: Tensor | None = None


def reduce_scores(
    function: type[ReduceScores], scores: Scores, problem: Problem, expected: Expected | None
) -> ScoreStats:
    """Run the engine on checked input; torch.compile leaves it as it is."""
    if torch.compiler.is_dynamo_compiling():
        opaque = torch.compiler.disable(_checked)
        return opaque(function, scores, problem, expected)
    return _reduce_scores(function, scores, problem, expected)


def _checked(
    function: type[ReduceScores], scores: Scores, problem: Problem, expected: Expected | None
) -> ScoreStats:
    """Out of torch.compile's sight tensors are real for the first time."""
    check_storage(problem.caller, {**vars(scores), **vars(problem)})
    return _reduce_scores(function, scores, problem, expected)


def _reduce_scores(
    function: type[ReduceScores], scores: Scores, problem: Problem, expected: Expected | None
) -> ScoreStats:
    backend = choose(problem)
    outputs = list(
        function.apply(
            problem,
            backend,
            expected,
            scores.query,
            scores.key,
            scores.scale,
            scores.row_bias,
            scores.col_bias,
        )
    )
    outputs.reverse()
    rows, columns = [], []
    for _ in problem.reductions:
        if problem.rows:
            rows.append(outputs.pop())
        if problem.columns:
            columns.append(outputs.pop())
    positive = None if problem.positives is None else outputs.pop()
    row_rank = outputs.pop() if problem.ranks and problem.rows else None
    col_rank = outputs.pop() if problem.ranks and problem.columns else None
    row_gap = None if problem.row_counts is None else outputs.pop()
    col_gap = None if problem.col_counts is None else outputs.pop()
    return ScoreStats(tuple(rows), tuple(columns), positive, row_rank, col_rank, row_gap, col_gap)
