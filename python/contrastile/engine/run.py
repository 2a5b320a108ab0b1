"""One run of the engine: operands, vectors and the plan of blocks, for forward and backward."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..problem import Problem
from .blocks import Block, Tile, keep_scores, strips
from .operands import Operand
from .positives import dots
from .vectors import Counts, ScaledScores, Vectors, make_counts, make_vectors


class Kernel(Protocol):
    """A backend bound to one run: its answers for a block."""

    def reduce(self, block: Block) -> None:
        """Add the block to the run's sums (and counts)."""

    def weights(self, block: Block) -> Tensor:
        """G = dL/dS of the block, in the GEMM's dtype; valid until the next call."""


class Backend(Protocol):
    """A way to compute blocks. It never sees a loss."""

    name: str

    def available(self) -> str | None:
        """None, or why it cannot run on this machine."""

    def supports(self, problem: Problem) -> str | None:
        """None, or why it cannot compute this problem."""

    def tile(self, problem: Problem) -> Tile:
        """The block shape it works best with."""

    def bind(self, run: Run) -> Kernel:
        """A kernel for this run; called once the vectors it reads are in place."""


class Run:
    """Everything that forward and backward share. Holds detached tensors only."""

    def __init__(
        self,
        problem: Problem,
        backend: Backend,
        query: Tensor,
        key: Tensor | None,
        scores: ScaledScores,
        keep: bool,
    ) -> None:
        self.problem = problem
        self.backend = backend
        self.scores = scores
        self.attach(query, key)
        self.positive = self._positive_scores()
        self.vectors: list[Vectors] = make_vectors(problem, scores)
        self.counts: Counts = make_counts(problem, self.vectors[0], self.positive)
        self.plan = strips(problem, backend.tile(problem))
        self._scratch: Tensor | None = None
        if keep:
            self.plan = keep_scores(problem, self.plan)

    def attach(self, query: Tensor, key: Tensor | None) -> None:
        """Use these embeddings (after :meth:`release`, the ones autograd saved)."""
        dtype = self.problem.dtype
        self.query = Operand(query, dtype)
        self.key = Operand(query if key is None else key, dtype)

    def release(self) -> None:
        """Drop the embeddings and the scratch: autograd keeps what the backward pass needs."""
        del self.query, self.key
        self._scratch = None

    def scratch(self, block: Block) -> Tensor:
        """Memory for one block, reused by every block of the run."""
        rows, cols = block.shape
        if self._scratch is None:
            largest = max(r * c for strip in self.plan for r, c in (b.shape for b in strip))
            self._scratch = torch.empty(
                largest, dtype=self.problem.dtype, device=self.problem.device
            )
        return self._scratch[: rows * cols].view(rows, cols)

    def dot_products(self, block: Block, out: Tensor) -> Tensor:
        """<q_i, k_j> of the block, accumulated and stored in the compute dtype."""
        return torch.mm(self.query.rows(block.rows), self.key.rows(block.cols).t(), out=out)

    def _positive_scores(self) -> Tensor | None:
        columns = self.problem.positives
        if columns is None:
            return None
        scores = self.scores
        score = dots(self.query, self.key, None, columns).double() * scores.scale
        if scores.row_bias is not None:
            score = score + scores.row_bias
        if scores.col_bias is not None:
            score = score + scores.col_bias[columns.clamp(min=0)]
        return torch.where(columns >= 0, score, 0.0).to(self.problem.dtype)
