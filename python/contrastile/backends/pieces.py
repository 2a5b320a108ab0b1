"""A block a few rows at a time, and memory for what is computed of them, in plain torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..engine.job import Job
from ..engine.plan import Block
from ..engine.spans import spans

# Scores of a piece: a block is taken a few rows at a time, so that they stay in the cache.
PIECE = 2**18


class Room:
    """Memory that every block and piece uses again."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._memory = {} if job.scratch is None else {"dots": job.scratch}

    def dots(self, block: Block) -> Tensor:
        """For the dot products, or the weights, of a block."""
        if "dots" not in self._memory:
            self._memory["dots"] = self._empty(self._job.plan.largest, self._job.sizes.dtype)
        return self._part("dots", block)

    def get(self, name: str, piece: Block) -> Tensor:
        """For a piece, in fp64."""
        if name not in self._memory:
            most = max(self.height(block) * block.shape[1] for block in self._job.plan.blocks())
            self._memory[name] = self._empty(most, torch.float64)
        return self._part(name, piece)

    @staticmethod
    def height(block: Block) -> int:
        """Rows of a piece of the block."""
        rows, cols = block.shape
        return min(rows, max(PIECE // cols, 1))

    def _empty(self, scores: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(scores, dtype=dtype, device=self._job.sizes.device)

    def _part(self, name: str, piece: Block) -> Tensor:
        rows, cols = piece.shape
        return self._memory[name][: rows * cols].view(rows, cols)


def pieces(block: Block, *matrices: Tensor) -> Iterator[tuple[Block, tuple[Tensor, ...]]]:
    """The block a few rows at a time: which pairs they are, and each matrix's part of them."""
    height, step = block.shape[0], Room.height(block)
    if height == step:
        yield block, matrices
        return
    start = block.rows.start
    for own in spans(0, height, step):
        rows = slice(start + own.start, start + own.stop)
        yield Block(rows, block.cols, block.mirrored), tuple([part[own] for part in matrices])


def of(vector: Tensor, span: slice) -> Tensor:
    """The entries ``span``; without a view, which costs microseconds, where that is all."""
    return vector if span.stop - span.start == vector.shape[0] else vector[span]
