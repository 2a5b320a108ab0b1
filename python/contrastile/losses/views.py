"""Two views of each item in one set: the scores that NT-Xent and the decoupled losses share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ops import ScoreStats
from ..parallel import Columns
from ..problem import Channel, Equal, Index, Not, Pairs
from ..problem.checks import check_integers, check_paired
from ..problem.row_loss import RowLoss
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
    """z = [z0; z1] and what is asked of its scores: each row's negatives, its other view."""

    opts: Options
    columns: Columns
    z: Tensor
    scale: float | Tensor
    margin: float
    groups: Groups | None
    weights: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(
        cls, opts: Options, z0: Tensor, z1: Tensor, ids: Tensor | None, margin: float
    ) -> TwoViews:
        """Checked views."""
        caller = opts.caller
        check_paired(caller, SEVERAL, z0=z0, z1=z1)
        n = z0.shape[0]
        scale = opts.scalar_scale(n)
        weights = opts.row_weights(n)
        if ids is not None:
            ids = check_integers(caller, "ids", ids, n)
        z = opts.embeddings(torch.cat([z0, z1]))
        bias = opts.bias(z)
        columns = opts.peers.columns("z0", z0, times=2)
        groups = None
        if ids is not None:
            items = opts.peers.columns("z0", z0)
            own = Groups.among(items, ids, opts.ignore_label).in_two_views()
            groups = replace(own, key=columns.everywhere(own.key))
        return cls(
            opts=opts,
            columns=columns,
            z=z,
            scale=scale,
            margin=margin,
            groups=groups,
            weights=None if weights is None else weights.repeat(2),
            bias=bias,
        )

    def scores(self, row_loss: RowLoss | None) -> ViewStats:
        """The scores' stats, computed over one triangle of z z^T; with a row loss, that loss."""
        n, device = self.z.shape[0] // 2, self.z.device
        own = self.columns.place(Index.diagonal(2 * n, device=device))
        partners = self.columns.place(Index.other_view(n, device=device))
        kept: Pairs = Not(own) & Not(partners)
        if self.groups is not None:
            kept = kept & Not(Equal(self.groups.query, self.groups.key))
        stats = self.columns.log_sum_exp(
            self.z,
            scale=self.scale,
            channels=[Channel(kept)],
            positives=partners,
            ranks=self.opts.return_stats,
            row_loss=row_loss,
            **self.opts.engine,
        )
        return ViewStats(self, stats)


@dataclass(frozen=True, eq=False)
class ViewStats:
    """The stats of two views, as the losses read them."""

    views: TwoViews
    found: ScoreStats

    @property
    def negatives(self) -> Tensor:
        """Log-sum-exp of each row's negatives."""
        return self.found.rows[0]

    @property
    def raw_positive(self) -> Tensor:
        """Score of each row's other view."""
        return self.found.scores_of_positives

    @property
    def positive(self) -> Tensor:
        """The same less the margin."""
        return with_margin(self.raw_positive, self.views.scale, self.views.margin)

    def valid(self) -> Tensor:
        """Rows that have a negative."""
        return ~torch.isneginf(self.negatives)

    def stats(self, lse: Tensor) -> Stats:
        """Stats with ``lse`` as the denominator."""
        views = self.views
        return make_stats(views.opts, lse, self.raw_positive, self.found.row_rank, self.valid())
