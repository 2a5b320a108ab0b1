"""What the compiled pass is told: of a problem once, and of each call where its tensors lie."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import native
from ...engine.arguments import Argument
from ...engine.job import Job
from ...engine.plan import Block
from ...engine.spans import WHOLE
from ...problem.spec import Stat

# High and low part of the coefficient, as numbers or as addresses; addresses of the offsets.
ArgumentCall = tuple[float, float, int, int, int, int]


def lowered(module: ModuleType, job: Job) -> Any:
    """The compiled form of the job's problem."""
    spec = job.spec
    sides = spec.rows, spec.columns, spec.triangle
    double = job.sizes.dtype == torch.float64
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


def call(job: Job) -> tuple[list[int], list[ArgumentCall], int, int]:
    """The addresses of the job's tensors by slot, the argument of each stat, and the sizes."""
    sizes = job.sizes
    tensors = [tensor.data_ptr() for tensor in job.tensors]
    return tensors, [_argument_call(argument) for argument in job.arguments], sizes.n, sizes.m


def address(tensor: Tensor | None) -> int:
    """Where a tensor lies; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def addresses(tensors: Iterable[Tensor | None]) -> list[int]:
    """Where tensors lie."""
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


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
        self._memory: Tensor | None = None

    def room(self, block: Block) -> Tensor:
        """A matrix of the block's shape."""
        plan, sizes = self._job.plan, self._job.sizes
        rows, cols = block.shape
        if plan.single:
            return torch.empty((rows, cols), dtype=sizes.dtype, device=sizes.device)
        if self._memory is None:
            self._memory = torch.empty(plan.largest, dtype=sizes.dtype, device=sizes.device)
        return self._memory[: rows * cols].view(rows, cols)


def _argument_call(argument: Argument) -> ArgumentCall:
    _, high, low, row_offset, col_offset = argument
    if not isinstance(high, Tensor):
        assert not isinstance(low, Tensor), "one coefficient for all rows beside one for each"
        return high, low, 0, 0, address(row_offset), address(col_offset)
    lows = address(low) if isinstance(low, Tensor) else 0
    return 0.0, 0.0, address(high), lows, address(row_offset), address(col_offset)
