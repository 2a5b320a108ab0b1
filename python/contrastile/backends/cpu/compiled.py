"""What the compiled pass is told of a problem, once, and of a block."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import native
from ...engine.job import Job
from ...engine.plan import Block
from ...engine.spans import WHOLE
from ...problem.spec import Sizes, Spec, Stat


def lowered(module: ModuleType, spec: Spec, sizes: Sizes) -> Any:
    """The compiled form of a problem."""
    sides = spec.rows, spec.columns, spec.triangle
    double = sizes.dtype == torch.float64
    return _lowered(module, spec.stats, sides, spec.gaps, double, native.level())


@lru_cache(maxsize=256)
def _lowered(
    module: ModuleType,
    stats: tuple[Stat, ...],
    sides: tuple[bool, bool, bool],
    gaps: bool,
    double: bool,
    level: str,
) -> Any:
    return module.Lowered(stats, *sides, gaps, double, level)


def place(block: Block) -> tuple[int, int, int, int, bool]:
    """First row, rows, first column, columns; and whether the transpose is meant too."""
    rows, cols = block.rows, block.cols
    return (
        rows.start,
        rows.stop - rows.start,
        cols.start,
        cols.stop - cols.start,
        block.mirrored,
    )


def ends(rows: slice, n: int) -> tuple[int, int]:
    """Where a range of rows begins and ends."""
    return (0, n) if rows is WHOLE else (rows.start, rows.stop)


class Scratch:
    """Memory for one block, used again by the next."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._memory = job.scratch

    def room(self, block: Block) -> Tensor:
        """A matrix of the block's shape."""
        plan, sizes = self._job.plan, self._job.sizes
        rows, cols = block.shape
        if plan.single:
            return torch.empty((rows, cols), dtype=sizes.dtype, device=sizes.device)
        if self._memory is None:
            self._memory = torch.empty(plan.largest, dtype=sizes.dtype, device=sizes.device)
        return self._memory[: rows * cols].view(rows, cols)
