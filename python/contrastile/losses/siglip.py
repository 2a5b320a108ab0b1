"""SigLIP: a sigmoid loss over all pairs, each pair a binary decision."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..problem import Equal, Index, Not, Phi, Term
from ..problem.advice import advise
from ..problem.checks import check_integers, check_paired
from .ids import SEVERAL_VECTORS, Groups, class_dot_sums
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function
from .rows import Stats, finish, make_stats, reduce_rows

NAME = "siglip_loss"


@loss_function
def siglip_loss(
    x: Tensor, y: Tensor, *, ids: Tensor | None = None, **options: Unpack[LossOptions]
) -> LossOutput:
    r"""Pairwise sigmoid loss for language-image pre-training.

    .. math:: L_i = \sum_j \log\big(1 + e^{-y_{ij} S_{ij}}\big),\quad
              S_{ij} = s \langle x_i, y_j \rangle + b,\quad
              y_{ij} = \begin{cases}+1 & (i, j) \text{ belong together}\\ -1\end{cases}

    Args:
        x: [N, D], fp32, fp64, bf16 or fp16.
        y: [N, D]; row i belongs to row i of ``x``.
        ids: [N] integers, -1 for none; every pair with equal ids belongs together.
        options: see :class:`~contrastile.losses.options.Options`. ``logit_bias`` is b; the paper
            starts with ``logit_scale=10``, ``logit_bias=-10`` and learns both.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [N] with ``reduction="none"``. The mean divides by N,
        not by the number of pairs.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023.

    >>> import torch
    >>> from contrastile import siglip_loss
    >>> x = torch.eye(4)
    >>> siglip_loss(x, x, logit_scale=10.0, logit_bias=-10.0)
    tensor(0.6933)
    """
    opts = Options(NAME, **options)
    check_paired(NAME, SEVERAL_VECTORS, x=x, y=y)
    n, device = x.shape[0], x.device
    scale, bias = opts.scale(n), opts.bias(y)
    weights = opts.row_weights(n)
    if ids is not None:
        ids = check_integers(NAME, "ids", ids, n)
    columns = opts.peers.columns("y", y)
    x, y = opts.embeddings(x), opts.embeddings(y)
    own = columns.place(Index.diagonal(n, device=device))
    terms = [Term(Phi.SOFTPLUS, Not(own))]
    count = torch.ones(n, dtype=torch.int64, device=device)
    if ids is not None:
        groups = Groups.among(columns, ids, opts.ignore_label)
        count = groups.counts()
        same = Equal(groups.query, groups.key)
        terms = [
            Term(Phi.SOFTPLUS, Not(own) & Not(same)),
            Term(Phi.SOFTPLUS, Not(own) & same, factor=-1.0),
        ]
    thresholds = None
    if opts.return_stats and ids is not None:
        with torch.no_grad():
            thresholds = class_dot_sums(columns, groups, x, y) * scale / count
            thresholds = thresholds if bias is None else thresholds + bias
    stats = columns.pair_sum(
        x,
        y,
        terms=terms,
        scale=scale,
        col_bias=bias,
        positives=own,
        ranks=opts.return_stats,
        row_thresholds=thresholds,
        row_loss=opts.row_loss("sigmoid", weights),
        **opts.engine,
    )

    def valid() -> Tensor:
        return torch.ones_like(count, dtype=torch.bool)

    def seen() -> Stats:
        own_score = stats.scores_of_positives
        score = own_score if thresholds is None else thresholds.to(own_score.dtype)
        return make_stats(opts, None, score, stats.row_rank, valid())

    if opts.logit_bias is None:
        advise(
            NAME,
            "no bias",
            "without a logit_bias each negative starts at a probability of about one half, and N "
            "of them swamp each positive; the paper learns a bias that starts at -10, beside a "
            "logit_scale that starts at 10",
            "logit_bias=0.0",
        )
    if stats.loss is not None:
        return finish(opts, stats.loss, valid, seen)
    losses = -torch.nn.functional.logsigmoid(stats.scores_of_positives)
    for part in stats.rows:
        losses = losses + part
    return reduce_rows(opts, losses, None, weights, seen)


def siglip_loss_reference(
    x: Tensor, y: Tensor, *, logit_scale: float | Tensor, logit_bias: float | Tensor
) -> Tensor:
    """The formula with all of S in memory, mean over rows: what :func:`siglip_loss` must equal."""
    logits = logit_scale * x @ y.T + logit_bias
    sign = 2 * torch.eye(len(x), dtype=logits.dtype, device=x.device) - 1
    return -torch.nn.functional.logsigmoid(sign * logits).sum() / len(x)


class SigLip(Loss):
    """Module twin of :func:`~contrastile.functional.siglip_loss`; takes its options."""

    function = staticmethod(siglip_loss)
