"""Two views of each item in one set: the scores that NT-Xent and the decoupled losses share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import log_sum_exp
from ..problem import Channel, Equal, Index, Pairs
from ..problem.checks import (
    check_embedding,
    check_integers,
    check_same_rows,
    check_same_size,
)
from .ids import Groups
from .options import Options
from .rows import Stats, make_stats, with_margin

SEVERAL = (
    "two views of each item are two arguments, z0 and z1; of more views z [items, views, size] "
    "supcon_loss(z.flatten(0, 1), labels) makes positives of each other, with "
    "labels = torch.arange(items).repeat_interleave(views)"
)


@dataclass(frozen=True, eq=False)
class TwoViews:
    """z = [z0; z1] with the log-sum-exp of each row's negatives and the score of its other view."""

    z: Tensor
    scale: float | Tensor
    groups: Groups | None
    weights: Tensor | None
    bias: Tensor | None
    partners: Tensor
    negatives: Tensor
    raw_positive: Tensor
    positive: Tensor
    rank: Tensor | None

    @classmethod
    def of(
        cls, opts: Options, z0: Tensor, z1: Tensor, ids: Tensor | None, margin: float
    ) -> TwoViews:
        """Checked views and their scores, computed over one triangle of z z^T."""
        caller = opts.caller
        check_embedding(caller, "z0", z0, SEVERAL)
        check_embedding(caller, "z1", z1, SEVERAL)
        check_same_size(caller, z0=z0, z1=z1)
        check_same_rows(caller, z0=z0, z1=z1)
        n, device = len(z0), z0.device
        scale = opts.scalar_scale(n)
        weights = opts.row_weights(n)
        z = opts.embeddings(torch.cat([z0, z1]))
        own = Index.diagonal(2 * n, device=device)
        partners = Index.other_view(n, device=device)
        kept: Pairs = ~own & ~partners
        groups = None
        if ids is not None:
            ids = check_integers(caller, "ids", ids, n)
            groups = Groups.within(ids, opts.ignore_label).in_two_views()
            kept &= ~Equal(groups.query, groups.key)
        stats = log_sum_exp(
            z,
            scale=scale,
            channels=[Channel(kept)],
            positives=partners,
            ranks=opts.return_stats,
            **opts.engine,
        )
        assert stats.positive is not None
        return cls(
            z=z,
            scale=scale,
            groups=groups,
            weights=None if weights is None else weights.repeat(2),
            bias=opts.bias(z),
            partners=partners.columns,
            negatives=stats.rows[0],
            raw_positive=stats.positive,
            positive=with_margin(stats.positive, scale, margin),
            rank=stats.row_rank,
        )

    def valid(self) -> Tensor:
        """Rows that have a negative."""
        return ~torch.isneginf(self.negatives)

    def stats(self, lse: Tensor) -> Stats:
        """Stats with ``lse`` as the denominator."""
        return make_stats(lse, self.raw_positive, self.rank, self.valid())
