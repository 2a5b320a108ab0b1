"""What a primitive returns, and the call that log_sum_exp and pair_sum share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import profiler

from ..backends import choose
from ..engine.node import ReduceScores
from ..problem import Problem
from ..problem.plain import is_traced
from ..problem.spec import NONE, Sizes, Spec
from . import library


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
        loss: of a ``row_loss``: 0-d, or [N] where rows are not reduced. The stats are then there
            only if it shows them.
    """

    rows: tuple[Tensor, ...] = ()
    columns: tuple[Tensor, ...] = ()
    positive: Tensor | None = None
    row_rank: Tensor | None = None
    col_rank: Tensor | None = None
    row_gap: Tensor | None = None
    col_gap: Tensor | None = None
    loss: Tensor | None = None

    @property
    def scores_of_positives(self) -> Tensor:
        """``positive``, where it was asked for."""
        assert self.positive is not None
        return self.positive


def reduce_scores(problem: Problem) -> ScoreStats:
    """Run the engine on checked input: as a node of autograd's graph, or of a trace."""
    spec, tensors = problem.lower()
    sizes = Sizes.of(spec, tensors)
    backend = choose(spec, sizes)
    spec = spec.on(backend.name, backend.allows_tf32())
    if not torch.is_grad_enabled():
        # autograd.Function asks the tensors alone which gradients are wanted.
        tensors = [tensor.detach() for tensor in tensors]
    if is_traced() or library.is_watched(sizes):
        return stats_of(spec, library.reduce(backend, spec, sizes, tensors))
    if profiler._is_profiler_enabled:
        with profiler.record_function(f"contrastile::{spec.caller}"):
            return stats_of(spec, ReduceScores.apply(backend, spec, sizes, *tensors))
    return stats_of(spec, ReduceScores.apply(backend, spec, sizes, *tensors))


def stats_of(spec: Spec, outputs: Sequence[Tensor]) -> ScoreStats:
    """The outputs by name; see :meth:`contrastile.engine.forward.Outcome.outputs`."""
    if spec.rule is not None and not spec.rule.shows:
        return ScoreStats(loss=outputs[0])
    left = list(outputs)
    left.reverse()
    loss = None if spec.rule is None else left.pop()
    count = len(spec.stats)
    rows = tuple([left.pop() for _ in range(count)]) if spec.rows else ()
    columns = tuple([left.pop() for _ in range(count)]) if spec.columns else ()
    positive = None if spec.positives == NONE else left.pop()
    row_gap = None if spec.row_counts == NONE else left.pop()
    col_gap = None if spec.col_counts == NONE else left.pop()
    row_rank = left.pop() if spec.ranks and spec.rows else None
    col_rank = left.pop() if spec.ranks and spec.columns else None
    return ScoreStats(rows, columns, positive, row_rank, col_rank, row_gap, col_gap, loss)
