"""InfoNCE whose hard negatives count more, and which takes false ones into account."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..engine.rules import softmax_loss
from ..engine.several import log_count
from ..problem import Channel, Equal, Index, Not, Pairs
from ..problem.checks import check_integers, check_paired
from .ids import SEVERAL_VECTORS, Groups
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function
from .rows import Stats, make_stats, reduce_rows, shift_of, wants_valid

NAME = "hard_negative_nce"


@loss_function
def hard_negative_nce(
    query: Tensor,
    key: Tensor,
    *,
    ids: Tensor | None = None,
    beta: float = 1.0,
    tau_plus: float = 0.0,
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""InfoNCE with negatives weighted by their hardness, debiased for false negatives.

    .. math:: L_i = \log\big(e^{S_{ii}} + N_i\big) - S_{ii},\quad
              W_i = n_i \frac{\sum_{j \ne i} e^{(1+\beta) S_{ij}}}{\sum_{j \ne i} e^{\beta S_{ij}}},
              \quad N_i = \max\Big(\frac{W_i - \tau^+ n_i e^{S_{ii}}}{1 - \tau^+},\
              n_i e^{-s_i}\Big)

    with :math:`S_{ij} = s_i \langle q_i, k_j \rangle` and the number :math:`n_i` of negatives. With
    :math:`\tau^+ = 0` there is no bound: :math:`N_i = W_i`; with :math:`\beta = 0` too it is
    InfoNCE. The weights are not detached. Where the bound holds, no negative has a gradient.

    Args:
        query: [N, D], fp32, fp64, bf16 or fp16.
        key: [N, D]; row i belongs to row i of ``query``.
        ids: [N] integers, -1 for none; pairs off the diagonal with equal ids are no negatives.
        beta: how much hard negatives count more, in [0, 100].
        tau_plus: the share of false negatives among all, in [0, 0.999].
        options: see :class:`~contrastile.losses.options.Options`. A scale per row multiplies
            row i of S. A ``logit_bias`` cancels: the bound is the smallest power that a pair of
            unit length can have, and would have the bias too.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [N] with ``reduction="none"``.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Robinson et al., Contrastive Learning with Hard Negative Samples, 2021;
    Chuang et al., Debiased Contrastive Learning, 2020.

    >>> import torch
    >>> from contrastile import hard_negative_nce
    >>> x = torch.eye(4)
    >>> hard_negative_nce(x, x, temperature=0.5)
    tensor(0.3408)
    """
    opts = Options(NAME, **options)
    check_paired(NAME, SEVERAL_VECTORS, query=query, key=key)
    n, device = query.shape[0], query.device
    scale, bias = opts.scale(n), opts.bias(key)
    weights = opts.row_weights(n)
    if ids is not None:
        ids = check_integers(NAME, "ids", ids, n)
    columns = opts.peers.columns("key", key)
    own = columns.place(Index.diagonal(n, device=device))
    kept: Pairs = Not(own)
    count = torch.full((n,), columns.total - 1, dtype=torch.int64, device=device)
    if ids is not None:
        groups = Groups.among(columns, ids, opts.ignore_label)
        kept = kept & Not(Equal(groups.query, groups.key))
        count = columns.total - groups.counts()

    # A power of 0 tells nothing of a pair but that it is there.
    factors = (1.0 + beta, beta) if beta else (1.0,)
    stats = columns.log_sum_exp(
        opts.embeddings(query),
        opts.embeddings(key),
        scale=scale,
        channels=[Channel(kept, factor) for factor in factors],
        positives=own,
        ranks=opts.return_stats,
        **opts.engine,
    )
    positive, negatives = stats.scores_of_positives, stats.rows[0]
    empty = torch.isneginf(negatives)
    number = log_count(count, negatives)
    if beta:
        negatives = torch.where(empty, -torch.inf, negatives - stats.rows[1] + number)
    if tau_plus:
        negatives = _debiased(negatives, positive, number, scale, tau_plus)
    losses = softmax_loss(negatives, positive)

    def seen() -> Stats:
        shift = shift_of(bias, positive)
        lse = torch.logaddexp(negatives, positive) + shift
        return make_stats(opts, lse, positive + shift, stats.row_rank, ~empty)

    valid = (lambda: ~empty) if wants_valid(opts) else None
    return reduce_rows(opts, losses, valid, weights, seen, bias)


def _debiased(
    negatives: Tensor, positive: Tensor, number: Tensor, scale: float | Tensor, tau_plus: float
) -> Tensor:
    """log N of log W: without the share that false negatives have of it, and not below the bound.

    NaN stays NaN, as both comparisons with it are false; -inf, of a row without negatives, stays.
    """
    smallest = number - (scale.to(number.dtype) if isinstance(scale, Tensor) else scale)
    share = math.log(tau_plus) + number + positive - negatives
    spent = share >= 0
    left = torch.log(-torch.expm1(torch.where(spent, -1.0, share))) - math.log1p(-tau_plus)
    bound = torch.where(torch.isneginf(negatives), negatives, smallest)
    return torch.where(spent | (negatives + left <= bound), bound, negatives + left)


def hard_negative_nce_reference(
    query: Tensor,
    key: Tensor,
    *,
    logit_scale: float | Tensor,
    beta: float = 1.0,
    tau_plus: float = 0.0,
) -> Tensor:
    """The formula with all of S in memory, mean over rows: what the loss must equal."""
    logits = logit_scale * query @ key.T
    own = torch.eye(len(key), dtype=torch.bool, device=key.device)
    number, positive = len(key) - 1, logits.diagonal()
    hard, weight = (
        (factor * logits).masked_fill(own, -torch.inf).logsumexp(1) for factor in (1 + beta, beta)
    )
    gap = math.log(number) + hard - weight - positive
    if tau_plus:
        left = (gap.exp() - tau_plus * number) / (1 - tau_plus)
        gap = torch.maximum(left, number * torch.exp(-logit_scale - positive)).log()
    return -torch.nn.functional.logsigmoid(-gap).mean()


class HardNegativeNCE(Loss):
    """Module twin of :func:`~contrastile.functional.hard_negative_nce`; takes its options."""

    function = staticmethod(hard_negative_nce)
