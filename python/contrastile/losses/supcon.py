"""SupCon: every other item of the same class is a positive."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..engine.several import several_loss
from ..ops import merge_log_sum_exp
from ..problem import Channel, Equal, Index, Not
from ..problem.checks import check_embedding, check_integers
from .ids import Groups, class_dot_sums
from .memory import Memory, merged, past_of
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function, widen
from .rows import (
    Stats,
    asks_for_gap,
    finish,
    make_stats,
    merged_gap,
    reduce_rows,
    several_from_means,
)

NAME = "supcon_loss"
SEVERAL = "use {name}.flatten(0, 1) with labels.repeat_interleave({count})"


@loss_function
def supcon_loss(
    z: Tensor,
    labels: Tensor,
    *,
    memory: Memory | None = None,
    variant: str = "out",
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""Supervised contrastive loss over one triangle of the N x N scores.

    .. math:: L^{out}_i = \log\sum_{j \ne i} e^{S_{ij}} - \frac{1}{|P_i|}\sum_{p \in P_i} S_{ip},
              \qquad
              L^{in}_i = \log\sum_{j \ne i} e^{S_{ij}}
                       - \log\frac{1}{|P_i|}\sum_{p \in P_i} e^{S_{ip}}

    with :math:`P_i` the other items of i's class. Several views of an item are several rows with
    one label. Positives need no label compare over pairs: their sum is one dot product with the
    sum of their class.

    Args:
        z: [N, D], fp32, fp64, bf16 or fp16.
        labels: [N] integers, -1 for none.
        memory: (z [K, D], labels [K]) of past batches: those of i's class are positives of i too,
            the others negatives; without a gradient. With a group all ranks have the same, which
            count once.
        variant: "out" (the paper's recommendation) or "in".
        options: see :class:`~contrastile.losses.options.Options`. The scale is one number, a
            ``logit_bias`` cancels.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [N] with ``reduction="none"``.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Khosla et al., Supervised Contrastive Learning, 2020.

    >>> import torch
    >>> from contrastile import supcon_loss
    >>> z = torch.eye(4).repeat(2, 1)
    >>> supcon_loss(z, torch.arange(4).repeat(2), temperature=0.5)
    tensor(0.5944)
    """
    opts = Options(NAME, **options)
    check_embedding(NAME, "z", z, SEVERAL)
    n, device = z.shape[0], z.device
    labels = check_integers(NAME, "labels", labels, n)
    scale, weights = opts.scalar_scale(n), opts.row_weights(n)
    past = past_of(opts, memory, ["z"], ("labels", labels), z)
    z = opts.embeddings(z)
    bias = opts.bias(z)
    columns = opts.peers.columns("z", z)
    groups = Groups.among(columns, labels, opts.ignore_label)
    own_count = count = groups.counts() - 1
    for side in past:
        count = count + side.counts()

    others = Not(columns.place(Index.diagonal(n, device=device)))
    same = Equal(groups.query, groups.key)
    gap = asks_for_gap(opts, variant, z)
    from_classes = variant == "out" and not gap
    mean = None
    if opts.return_stats or from_classes:
        wide = widen(z)
        total = class_dot_sums(columns, groups, z, z) - (wide * wide).sum(1)
        for side in past:
            total = total + side.dot_sums(z)
        mean = total * scale / count.clamp(min=1)
    apart = from_classes or memory is not None
    stats = columns.log_sum_exp(
        z,
        scale=scale,
        channels=[Channel(others & Not(same)), Channel(others & same)],
        ranks=opts.return_stats,
        row_thresholds=None if mean is None else mean.detach(),
        row_counts=own_count if gap else None,
        row_loss=None if apart else opts.row_loss("several", weights, row_count=count),
        **opts.engine,
    )
    for side in past:
        both, past_count = [side.others, side.same], side.counts()
        more = side.log_sum_exp(opts, z, scale, both, mean, past_count if gap else None)
        joined = merged_gap(stats, own_count, more, past_count) if gap else None
        stats = merged(stats, more)._replace(row_gap=joined)

    def valid() -> Tensor:
        return count > 0

    def seen() -> Stats:
        assert mean is not None
        score = torch.where(valid(), mean, 0.0)
        return make_stats(opts, merge_log_sum_exp(*stats.rows), score, stats.row_rank, valid())

    if stats.loss is not None:
        return finish(opts, stats.loss, valid, seen, bias)
    negatives, positives = stats.rows
    if from_classes:
        assert mean is not None
        losses = several_from_means(negatives, positives, mean, count)
    else:
        losses = several_loss(negatives, positives, count, stats.row_gap)
    return reduce_rows(opts, losses, valid, weights, seen, bias)


def supcon_loss_reference(
    z: Tensor, labels: Tensor, *, logit_scale: float | Tensor, variant: str = "out"
) -> Tensor:
    """The formula with all of S in memory, mean over rows: what :func:`supcon_loss` must equal.

    For labels of which each has at least two items.
    """
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = logit_scale * z @ z.T
    log_prob = logits - logits.masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)
    positive = (labels[:, None] == labels) & ~own
    count = positive.sum(1)
    if variant == "out":
        return -((positive * log_prob).sum(1) / count).mean()
    likelihood = log_prob.masked_fill(~positive, -torch.inf).logsumexp(1)
    return (count.to(z.dtype).log() - likelihood).mean()


class SupCon(Loss):
    """Module twin of :func:`~contrastile.functional.supcon_loss`; takes its options."""

    function = staticmethod(supcon_loss)
