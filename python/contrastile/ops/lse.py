"""Log-sum-exps of the scores over rows, columns or both."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..problem import Channel, Index, Problem, Scores
from ..problem.row_loss import RowLoss
from ..problem.storage import gated
from .stats import ScoreStats, reduce_scores

NAME = "log_sum_exp"


@gated
def log_sum_exp(
    query: Tensor,
    key: Tensor | None = None,
    *,
    scale: float | Tensor = 1.0,
    row_bias: Tensor | None = None,
    col_bias: Tensor | None = None,
    channels: Sequence[Channel] = (Channel(),),
    rows: bool = True,
    columns: bool = False,
    positives: Tensor | Index | None = None,
    ranks: bool = False,
    row_thresholds: Tensor | None = None,
    col_thresholds: Tensor | None = None,
    row_counts: Tensor | None = None,
    col_counts: Tensor | None = None,
    backend: str = "auto",
    workspace: int | None = None,
    row_loss: RowLoss | None = None,
    caller: str = NAME,
) -> ScoreStats:
    r"""Log-sum-exps of scores that are never stored.

    .. math:: S_{ij} = scale_i \langle q_i, k_j \rangle + a_i + b_j,\qquad
              \ell^c_i = \log \sum_{j \in pairs_c(i)} \exp(factor_c S_{ij} + \omega^c_{ij})

    and the same over i for columns. An empty sum is -inf with gradient 0. Differentiable once in
    query, key, scale and the biases; stats are fp32, or fp64 if an embedding is fp64.

    Args:
        query: [N, D], fp32, fp64, bf16 or fp16.
        key: [M, D]; None (or ``query`` itself) is the self mode, which computes one triangle of S
            where pairs and weights are symmetric.
        scale: float, 0-d tensor or [N].
        row_bias: a [N].
        col_bias: b [M].
        channels: one to three :class:`~contrastile.problem.Channel`.
        rows: reduce over j, one number a row.
        columns: reduce over i, one number a column.
        positives: [N] int64, a column for each row or -1, or an ``Index`` of it (whose diagonal is
            not searched for columns out of range): also return those scores. They are not
            taken out of the channels; a channel with ``~Index(positives)`` does that.
        ranks: also count the kept scores above the positive (or the thresholds), no gradient; those
            that equal it within 8 roundings do not count. Leave the positive out of the first
            channel all the same: its dot product there is a sum in another order.
        row_thresholds: [N], what ranks compare with instead of the positive.
        col_thresholds: [M], likewise for columns.
        row_counts: [N] integers, how many pairs the last channel keeps in each row: also return
            by how much the log of the mean of their e^S exceeds the mean of their S, which no
            difference of the stats tells as exactly. That channel then has the factor 1 and no
            log-weights, and the scores no bias.
        col_counts: [M], likewise for columns.
        backend: "auto", "cpu", "triton", "cuda" or "reference".
        workspace: bytes that S may take at any time; default 256 MiB,
            on a GPU a 64th of its memory if that is more.
        row_loss: a loss that is summed over rows in the same pass; then ``loss`` is what is
            returned, and the stats only if it shows them, without gradients.
        caller: the function that errors name, for a loss whose tensors have passed
            :func:`~contrastile.problem.storage.check_storage`.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).
        TypeError: an argument of the wrong type.

    >>> import torch
    >>> from contrastile.ops import log_sum_exp
    >>> q, k = torch.eye(3), torch.eye(3)
    >>> stats = log_sum_exp(q, k, scale=2.0, columns=True)
    >>> bool(torch.allclose(stats.rows[0], (2 * q @ k.T).logsumexp(1)))
    True
    """
    scores = Scores.of(caller, query, key, scale, row_bias, col_bias)
    problem = Problem.of(
        caller,
        scores,
        channels,
        Channel,
        rows=rows,
        columns=columns,
        positives=positives,
        ranks=ranks,
        row_thresholds=row_thresholds,
        col_thresholds=col_thresholds,
        row_counts=row_counts,
        col_counts=col_counts,
        backend=backend,
        workspace=workspace,
        row_loss=row_loss,
    )
    return reduce_scores(problem)
