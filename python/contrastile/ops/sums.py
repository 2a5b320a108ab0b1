"""Sums of a function of the scores over rows, columns or both."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..problem import Index, Problem, Scores, Term
from ..problem.row_loss import RowLoss
from ..problem.storage import gated
from .stats import ScoreStats, reduce_scores

NAME = "pair_sum"


@gated
def pair_sum(
    query: Tensor,
    key: Tensor | None = None,
    *,
    terms: Sequence[Term],
    scale: float | Tensor = 1.0,
    row_bias: Tensor | None = None,
    col_bias: Tensor | None = None,
    rows: bool = True,
    columns: bool = False,
    positives: Tensor | Index | None = None,
    ranks: bool = False,
    row_thresholds: Tensor | None = None,
    col_thresholds: Tensor | None = None,
    backend: str = "auto",
    workspace: int | None = None,
    row_loss: RowLoss | None = None,
    caller: str = NAME,
) -> ScoreStats:
    r"""Sums of a function of scores that are never stored.

    .. math:: F_i = \sum_{j \in pairs(i)} \phi(factor \cdot S_{ij} - \theta_i),\qquad
              \phi \in \{softplus, relu, identity, square, sigmoid\}

    and the same over i for columns. An empty sum is 0. Arguments are those of
    :func:`~contrastile.ops.log_sum_exp`, with one to three :class:`~contrastile.problem.Term`
    in place of the channels.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).
        TypeError: an argument of the wrong type.

    >>> import torch
    >>> from contrastile.ops import pair_sum
    >>> from contrastile.problem import Phi, Term
    >>> q, k = torch.eye(3), torch.eye(3)
    >>> pair_sum(q, k, scale=2.0, terms=[Term(Phi.IDENTITY)]).rows[0]
    tensor([2., 2., 2.])
    """
    scores = Scores.of(caller, query, key, scale, row_bias, col_bias)
    problem = Problem.of(
        caller,
        scores,
        terms,
        Term,
        rows=rows,
        columns=columns,
        positives=positives,
        ranks=ranks,
        row_thresholds=row_thresholds,
        col_thresholds=col_thresholds,
        backend=backend,
        workspace=workspace,
        row_loss=row_loss,
    )
    return reduce_scores(problem)
