"""The order in which blocks of S are visited, and what is kept of them for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..problem import Problem


@dataclass(frozen=True)
class Tile:
    """The block shape a backend works best with."""

    rows: int
    cols: int


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


def spans(start: int, stop: int, step: int) -> Iterator[slice]:
    """Consecutive slices of at most ``step`` that cover [start, stop)."""
    for begin in range(start, stop, step):
        yield slice(begin, min(begin + step, stop))


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


def keep_scores(problem: Problem, plan: list[list[Block]]) -> list[list[Block]]:
    """The plan with memory for every block's dots, where they fit the workspace; else unchanged.

    It saves the backward pass one product of four (of two and a half in the self mode).
    """
    shapes = [block.shape for strip in plan for block in strip]
    total = sum(r * c for r, c in shapes)
    largest = max((r * c for r, c in shapes), default=0)
    if (total + largest) * problem.dtype.itemsize > problem.workspace:
        return plan
    memory = torch.empty(total, dtype=problem.dtype, device=problem.device)
    pieces = iter(memory.split([r * c for r, c in shapes]))
    return [
        [Block(b.rows, b.cols, b.mirrored, next(pieces).view(b.shape)) for b in strip]
        for strip in plan
    ]
