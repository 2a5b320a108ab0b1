"""Selections on the CPU: dot products by torch.mm, picked from by the compiled pass."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ... import native
from ...engine.job import Job
from ...engine.picked import Picked
from ...engine.plan import Block
from ..torch_select import TorchSelector


class NativeSelector(TorchSelector):
    """One look at a block, in place of a sort of its rows and of several passes over it."""

    def __init__(self, job: Job, module: ModuleType) -> None:
        super().__init__(job)
        self._module = module

    def merge_top_k(self, picked: Picked, block: Block, dots: Tensor) -> None:
        """Add the block's columns, which are behind those that were picked before."""
        self._module.merge_top_k(*_call(picked, block, dots), torch.get_num_threads())

    def group_max(self, starts: Tensor) -> Picked:
        """The first of each group's columns."""
        picked = Picked.none(self.job.sizes, starts.shape[0] - 1)
        for block in self.job.plan.blocks():
            call = _call(picked, block, self.kept_dots(block))
            self._module.merge_group_max(*call, starts, torch.get_num_threads())
        return picked


def _call(picked: Picked, block: Block, dots: Tensor) -> tuple[object, ...]:
    """A block, and what was picked of its rows, as the compiled pass takes them."""
    values, columns = picked.values[block.rows], picked.columns[block.rows]
    place = dots, *dots.shape, block.cols.start
    return native.is_double(dots), *place, values, columns, columns.shape[1]
