"""The order in which blocks of S are visited, and what is kept of them for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..problem import Problem
from .memory import use_huge_pages


@dataclass(frozen=True)
class Keeping:
    """Where a product costs more than to write and read its result: from an embedding size on, and
    below it where all results together stay in a cache of so many scores.
    """

    from_size: int
    cached: int = 0


# Measured on a CPU at N = 8192 in 1024 x 2048 tiles: kept scores made a step 1.1 to 1.3 times
# slower at D = 64, as fast at 128, 1.05 to 1.15 times faster at 256, 1.05 to 1.2 times at 512.
CPU_KEEPING = Keeping(192, 2**20)


@dataclass(frozen=True)
class Tile:
    """The block shape a backend works best with, and the bytes it spends on a pair."""

    rows: int
    cols: int
    itemsize: float | None = None


@dataclass(frozen=True, eq=False)
class Block:
    """A block of S. ``mirrored``: it also stands for its transpose (off-diagonal, self mode).

    ``kept`` is memory in which the block's dot products outlive the forward pass, or None.
    """

    rows: slice
    cols: slice
    mirrored: bool
    kept: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the block."""
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start

    def share(self, triangle: bool) -> float:
        """How much of the block counts in a sum over all pairs: on a diagonal each stands twice."""
        return 0.5 if triangle and not self.mirrored else 1.0


def spans(start: int, stop: int, step: int) -> Iterator[slice]:
    """Consecutive slices of at most ``step`` that cover [start, stop)."""
    for begin in range(start, stop, step):
        yield slice(begin, min(begin + step, stop))


def within_workspace(problem: Problem, tile: Tile) -> Tile:
    """The tile, halved along its longer side until a block of it fits the workspace."""
    rows, cols = min(tile.rows, max(problem.n, 1)), min(tile.cols, max(problem.m, 1))
    itemsize = tile.itemsize or problem.dtype.itemsize
    while rows * cols * itemsize > problem.workspace and rows * cols > 1:
        if rows > cols:
            rows = -(-rows // 2)
        else:
            cols = -(-cols // 2)
    return Tile(rows, cols)


def strips(problem: Problem, tile: Tile) -> list[list[Block]]:
    """Strips of blocks, top to bottom; in the self mode each starts on the diagonal."""
    if problem.m == 0:
        return []
    return [_strip(problem, tile, rows) for rows in spans(0, problem.n, tile.rows)]


def _strip(problem: Problem, tile: Tile, rows: slice) -> list[Block]:
    if not problem.triangle:
        return [Block(rows, cols, False) for cols in spans(0, problem.m, tile.cols)]
    beyond = spans(rows.stop, problem.m, tile.cols)
    return [Block(rows, rows, False), *(Block(rows, cols, True) for cols in beyond)]


def all_fit(problem: Problem, plan: list[list[Block]]) -> bool:
    """Whether all blocks and one more fit the workspace."""
    sizes = _sizes(plan)
    return sum(sizes) + max(sizes, default=0) <= problem.workspace // problem.dtype.itemsize


def keep_scores(problem: Problem, plan: list[list[Block]], keeping: Keeping) -> list[list[Block]]:
    """The plan with memory for the dots of as many blocks as fit the workspace beside one more.

    Each saves the backward pass one product of four (of two in the self mode).
    """
    sizes = _sizes(plan)
    budget = problem.workspace // problem.dtype.itemsize - max(sizes, default=0)
    if problem.d < keeping.from_size:
        budget = min(budget, keeping.cached)
        if sum(sizes) > budget:
            return plan
    count, total = 0, 0
    for size in sizes:
        if total + size > budget:
            break
        count, total = count + 1, total + size
    if count == 0:
        return plan
    memory = torch.empty(total, dtype=problem.dtype, device=problem.device)
    use_huge_pages(memory)
    pieces = iter(memory.split(sizes[:count]))
    return [[_with_memory(block, next(pieces, None)) for block in strip] for strip in plan]


def _sizes(plan: list[list[Block]]) -> list[int]:
    return [rows * cols for strip in plan for rows, cols in (block.shape for block in strip)]


def _with_memory(block: Block, memory: Tensor | None) -> Block:
    if memory is None:
        return block
    return Block(block.rows, block.cols, block.mirrored, memory.view(block.shape))
