"""Several positives per query and per key, told by ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..engine.several import several_loss
from ..ops import merge_log_sum_exp
from ..problem import Channel, Equal, Not
from ..problem.checks import check_embedding, check_integers, check_same_size
from .ids import Groups, class_dot_sums
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function
from .rows import (
    Stats,
    asks_for_gap,
    finish,
    make_stats,
    reduce_rows,
    several_from_means,
    shift_of,
)

NAME = "multi_positive_nce"
SEVERAL = "use {name}.flatten(0, 1) with {name}_ids.repeat_interleave({count})"


@loss_function
def multi_positive_nce(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    *,
    variant: str = "out",
    direction: str = "both",
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""Contrastive loss with several positives: the pairs whose ids are equal.

    .. math:: L^{out}_i = \log\sum_j e^{S_{ij}} - \frac{1}{|P_i|}\sum_{p \in P_i} S_{ip},\qquad
              L^{in}_i = \log\sum_j e^{S_{ij}} - \log\frac{1}{|P_i|}\sum_{p \in P_i} e^{S_{ip}}

    and the same over columns. "in" is the loss of MIL-NCE up to the constant log of the number of
    positives.

    Args:
        query: [N, D], fp32, fp64, bf16 or fp16.
        key: [M, D].
        query_ids: [N] integers, -1 for none.
        key_ids: [M] integers, likewise.
        variant: "out" (mean of the positives' scores) or "in" (mean of their exponentials).
        direction: "rows", "columns", or "both": half the mean over rows plus half the mean over
            columns.
        options: see :class:`~contrastile.losses.options.Options`. ``weights`` has one entry a
            loss that ``reduction="none"`` returns.

    Returns:
        fp32 (fp64 for fp64 input): 0-d; with ``reduction="none"`` [N], [M], or for both
        directions [N + M].

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Khosla et al., Supervised Contrastive Learning, 2020; Miech et al. (MIL-NCE), 2020.

    >>> import torch
    >>> from contrastile import multi_positive_nce
    >>> x, ids = torch.eye(4), torch.arange(4)
    >>> multi_positive_nce(x, x, ids, ids, temperature=0.5)
    tensor(0.3408)
    """
    opts = Options(NAME, **options)
    check_embedding(NAME, "query", query, SEVERAL)
    check_embedding(NAME, "key", key, SEVERAL)
    check_same_size(NAME, query=query, key=key)
    n, m = query.shape[0], key.shape[0]
    query_ids = check_integers(NAME, "query_ids", query_ids, n)
    key_ids = check_integers(NAME, "key_ids", key_ids, m)
    rows, columns = direction != "columns", direction != "rows"
    scale, bias = opts.scale(n), opts.bias(key)
    weights = opts.row_weights(n * rows + m * columns)
    queries, keys = opts.peers.columns("query", query), opts.peers.columns("key", key)
    ids = queries.everywhere(query_ids), keys.everywhere(key_ids)
    both = Groups.of(*ids, opts.ignore_label)
    groups, flipped = both.rows(queries), both.flipped().rows(keys)
    query, key = opts.embeddings(query), opts.embeddings(key)

    row_count, col_count = groups.counts(), flipped.counts()
    gap = asks_for_gap(opts, variant, query, key)
    from_classes = variant == "out" and not gap
    row_mean = col_mean = None
    if opts.return_stats or from_classes:
        scaled = query if isinstance(scale, float) or scale.dim() == 0 else query * scale[:, None]
        factor = scale if scaled is query else 1.0
        row_mean = class_dot_sums(keys, groups, query, key) * scale / row_count.clamp(min=1)
        col_mean = class_dot_sums(queries, flipped, key, scaled) * factor / col_count.clamp(min=1)
    same = Equal(groups.query, groups.key)
    row_loss = opts.row_loss(
        "several",
        weights,
        share=0.5,
        row_count=row_count if rows else None,
        col_count=col_count if columns else None,
    )
    stats = keys.log_sum_exp(
        query,
        key,
        scale=scale,
        channels=[Channel(Not(same)), Channel(same)],
        rows=rows,
        columns=columns,
        ranks=opts.return_stats,
        row_thresholds=None if row_mean is None else row_mean.detach(),
        col_thresholds=None if col_mean is None else col_mean.detach(),
        row_counts=row_count if gap and rows else None,
        col_counts=col_count if gap and columns else None,
        row_loss=None if from_classes else row_loss,
        **opts.engine,
    )
    sides = []
    if rows:
        sides.append(_Side(stats.rows, row_mean, row_count, stats.row_gap, stats.row_rank))
    if columns:
        sides.append(_Side(stats.columns, col_mean, col_count, stats.col_gap, stats.col_rank))

    def valid() -> Tensor:
        return torch.cat([side.valid for side in sides])

    def seen() -> Stats:
        shift = shift_of(bias, sides[0].lse[0])
        of_columns = sides[1].stats(opts, shift) if len(sides) == 2 else None
        return sides[0].stats(opts, shift, of_columns)

    if stats.loss is not None:
        return finish(opts, stats.loss, valid, seen, bias)
    losses = [side.from_means() if from_classes else side.losses() for side in sides]
    return _reduce_sides(opts, sides, losses, weights, valid, seen, bias)


def multi_positive_nce_reference(
    query: Tensor, key: Tensor, query_ids: Tensor, key_ids: Tensor, *, logit_scale: float | Tensor
) -> Tensor:
    """ "out", both directions, all of S in memory: what :func:`multi_positive_nce` must equal.

    For ids that every query shares with a key and every key with a query.
    """
    logits = logit_scale * query @ key.T
    positive = query_ids[:, None] == key_ids
    rows = logits.logsumexp(1) - (positive * logits).sum(1) / positive.sum(1)
    columns = logits.logsumexp(0) - (positive * logits).sum(0) / positive.sum(0)
    return (rows.mean() + columns.mean()) / 2


class MultiPositiveNCE(Loss):
    """Module twin of :func:`~contrastile.functional.multi_positive_nce`; takes its options."""

    function = staticmethod(multi_positive_nce)


@dataclass(frozen=True, eq=False)
class _Side:
    """One direction: log-sum-exps of negatives and of positives, and what the pass saw."""

    lse: tuple[Tensor, ...]
    mean_positive: Tensor | None
    count: Tensor
    gap: Tensor | None
    rank: Tensor | None

    @property
    def valid(self) -> Tensor:
        """The rows (or columns) that have a positive."""
        return self.count > 0

    @property
    def mean(self) -> Tensor:
        """The mean score of each row's positives, where it was asked for."""
        assert self.mean_positive is not None
        return self.mean_positive

    def losses(self) -> Tensor:
        """The loss of each row, with the gap from the pass over the scores."""
        negatives, positives = self.lse
        return several_loss(negatives, positives, self.count, self.gap)

    def from_means(self) -> Tensor:
        """The same with means from classes."""
        negatives, positives = self.lse
        return several_from_means(negatives, positives, self.mean, self.count)

    def stats(self, opts: Options, bias: Tensor | float, columns: Stats | None = None) -> Stats:
        """What this direction saw."""
        positive = torch.where(self.valid, self.mean + bias, 0.0)
        denominator = merge_log_sum_exp(*self.lse) + bias
        return make_stats(opts, denominator, positive, self.rank, self.valid, columns)


def _reduce_sides(
    opts: Options,
    sides: list[_Side],
    losses: list[Tensor],
    weights: Tensor | None,
    valid: Callable[[], Tensor],
    seen: Callable[[], Stats],
    bias: Tensor | None,
) -> LossOutput:
    """The loss of one or both directions; ``bias`` is one number, which cancels."""
    if len(sides) == 1 or opts.reduction != "mean":
        return reduce_rows(opts, torch.cat(losses), valid, weights, seen, bias)
    plain = replace(opts, return_stats=False)
    split = [None] * 2 if weights is None else weights.split([own.shape[0] for own in losses])
    total = sum(
        reduce_rows(plain, own, lambda side=side: side.valid, part, cancelled=bias)  # type: ignore[misc]
        for side, own, part in zip(sides, losses, split, strict=True)
    )
    return (total * 0.5, seen()) if opts.return_stats else total * 0.5
