"""Selections in plain torch, block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.job import Job
from ..engine.picked import Picked
from ..engine.plan import Block
from .kept_out import Selection
from .pieces import Room
from .places import Places


class TorchSelector:
    """Blocks by torch.mm, then sorted, or reduced group by group."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._places, self._room = Places(), Room(job)

    def top_k(self, k: int) -> Picked:
        """The first ``k`` columns of each row, in their order."""
        picked = Picked.none(self.job.sizes, k)
        for block in self.job.plan.blocks():
            dots = self.kept_dots(block)
            self.merge_top_k(picked, block, dots)
        return picked

    def group_max(self, starts: Tensor) -> Picked:
        """The first of each group's columns."""
        picked = Picked.none(self.job.sizes, starts.shape[0] - 1)
        groups = Groups(starts, self.job.sizes.m)
        for block in self.job.plan.blocks():
            dots = self.kept_dots(block)
            self.merge_group_max(picked, block, dots, groups)
        return picked

    def kept_dots(self, block: Block) -> Tensor:
        """Dot products of the block, -inf where a pair is left out."""
        job = self.job
        dots = job.dot_products(block, self._room.dots(block))
        selection = Selection(job.tensors, block, self._places, ())
        selection.kept_out(job.spec.stats[0]).fill_(dots, -torch.inf)
        return dots

    def merge_top_k(self, picked: Picked, block: Block, dots: Tensor) -> None:
        """Add the block's columns, which are behind those that were picked before."""
        k = picked.columns.shape[1]
        values, columns = picked.values[block.rows], picked.columns[block.rows]
        sorted_all = torch.cat([values, dots], 1).sort(dim=1, descending=True, stable=True)
        places = sorted_all.indices[:, :k]
        new = places - k + block.cols.start
        known = columns.gather(1, places.clamp(max=k - 1))
        values.copy_(sorted_all.values[:, :k])
        columns.copy_(torch.where(values == -torch.inf, -1, torch.where(places < k, known, new)))

    def merge_group_max(self, picked: Picked, block: Block, dots: Tensor, groups: Groups) -> None:
        """Likewise, of each group that the block has columns of."""
        span, own = groups.within(block.cols)
        values, columns = picked.values[block.rows, span], picked.columns[block.rows, span]
        height, width = dots.shape
        places = own.expand(height, width)
        # One more, for columns of no group.
        best = dots.new_full((height, values.shape[1] + 1), -torch.inf)
        best.scatter_reduce_(1, places, dots, "amax")
        at = torch.arange(block.cols.start, block.cols.stop, device=dots.device)
        # A maximum of NaN is equal to nothing: it is at the first NaN.
        won = (dots == best.gather(1, places)) | dots.isnan()
        first = at.new_full(best.shape, groups.m)
        first.scatter_reduce_(1, places, torch.where(won, at, groups.m), "amin")
        best, first = best[:, :-1], first[:, :-1]
        better = (best > values) | (best.isnan() & ~values.isnan())
        values.copy_(torch.where(better, best, values))
        columns.copy_(torch.where(better, first, columns))


class Groups:
    """The group of each of ``m`` columns; those of none have the number after the last."""

    def __init__(self, starts: Tensor, m: int) -> None:
        self.m, self._count = m, starts.shape[0] - 1
        columns = torch.arange(m, device=starts.device)
        found = torch.searchsorted(starts, columns, right=True) - 1
        self._of = torch.where((found >= 0) & (found < self._count), found, self._count)

    def within(self, cols: slice) -> tuple[slice, Tensor]:
        """The groups that some columns are of, and the group of each, counted from the first."""
        own = self._of[cols]
        members = own[own < self._count]
        if not len(members):
            return slice(0, 0), torch.zeros_like(own)
        low, high = int(members[0]), int(members[-1]) + 1
        return slice(low, high), torch.where(own < self._count, own - low, high - low)
