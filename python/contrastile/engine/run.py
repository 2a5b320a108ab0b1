"""One run of the engine: operands, vectors and the plan of blocks, for forward and backward."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..problem import Problem
from .blocks import Block, Keeping, Tile, keep_scores, strips, within_workspace
from .gaps import score_sums
from .operands import Operand
from .positives import dots
from .products import make_symmetric
from .vectors import WHOLE, Counts, ScaledScores, Vectors, make_counts, make_vectors, part


class Kernel(Protocol):
    """A backend bound to one run: its answers for a block."""

    def reduce(self, block: Block) -> None:
        """Add the block to the run's sums (and counts); take its positives, if not before."""

    def finish(self) -> None:
        """All blocks are in the sums: settle what had to wait for them."""

    def weights(self, block: Block, row_products: Tensor | None) -> Tensor:
        """``run.unit`` times G = dL/dS of the block, in the operands' dtype; valid until the next.

        With the run's ``positive_grad`` at the positives, if it is set. The row sums of
        G_ij <q_i, k_j> are added to ``row_products`` (fp64 [N]): from the diagonal of a triangle,
        where each pair stands twice, half of them; positives count once.
        """


class Backend(Protocol):
    """A way to compute blocks. It never sees a loss."""

    name: str
    # Whether a scale given as a tensor may be read by the host.
    reads_scale: bool
    # Whether its kernels form the coefficients of G from the upstream gradients themselves.
    forms_coefficients: bool
    # Whether the stats of a strip are known before all strips are in.
    settles_strips: bool

    def available(self) -> str | None:
        """None, or why it cannot run on this machine."""

    def supports(self, problem: Problem) -> str | None:
        """None, or why it cannot compute this problem."""

    def tile(self, problem: Problem) -> Tile:
        """The block shape it works best with."""

    def keeping(self, problem: Problem) -> Keeping:
        """When reduce() is to leave dot products in Block.kept, for weights() to find."""

    def operand_dtype(self, problem: Problem) -> torch.dtype:
        """What embeddings and G are multiplied in; the products are accumulated in fp32 or fp64."""

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
    ) -> None:
        self.problem = problem
        self.backend = backend
        self.scores = scores
        self.operand_dtype = backend.operand_dtype(problem)
        self.attach(query, key)
        self.finite = False
        # What a kernel leaves for the kernel of the backward pass.
        self.carry: object = None
        # The power of two in the weights of the last bound kernel; None is one.
        self.unit: Tensor | None = None
        self.positive_grad: Tensor | None = None
        self.positive_dots = self._positive_dots()
        self.vectors: list[Vectors] = make_vectors(problem, scores)
        threshold = self.positives(WHOLE) if problem.ranks else None
        self.counts: Counts = make_counts(problem, self.vectors[0], threshold)
        self.score_sums = score_sums(problem, scores)
        self.plan = strips(problem, self._tile())
        self._scratch: Tensor | None = None

    def _tile(self) -> Tile:
        tile = within_workspace(self.problem, self.backend.tile(self.problem))
        # The diagonal blocks of a triangle are square.
        return Tile(min(tile.rows, tile.cols), tile.cols) if self.problem.triangle else tile

    def keep_scores(self) -> None:
        """Let the dot products of blocks outlive the forward pass, as far as the workspace goes."""
        self.plan = keep_scores(self.problem, self.plan, self.backend.keeping(self.problem))

    def forget_scores(self) -> None:
        """Free the kept blocks once they were used; another backward pass computes them again."""
        if any(block.kept is not None for strip in self.plan for block in strip):
            self.plan = [[replace(block, kept=None) for block in strip] for strip in self.plan]

    def attach(self, query: Tensor, key: Tensor | None) -> None:
        """Use these embeddings (after :meth:`release`, the ones autograd saved)."""
        dtype = self.operand_dtype
        self.query = Operand(query, dtype)
        self.key = Operand(query if key is None else key, dtype, at_once=True)

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
        torch.mm(self.query.rows(block.rows), self.key.rows(block.cols).t(), out=out)
        if self.problem.triangle and not block.mirrored:
            make_symmetric(out)
        return out

    @property
    def takes_positives(self) -> bool:
        """Whether kernels are to take the positives' dot products out of their blocks.

        Ranks compare with them from the first block on, so they are gathered beforehand then.
        """
        return self.positive_dots is not None and not self.problem.ranks

    def positives(self, rows: slice) -> Tensor | None:
        """Scores of the positives of ``rows``; NaN instead of infinite: never a finite lie."""
        if self.positive_dots is None:
            return None
        scores, columns = self.scores, self.problem.positives
        assert columns is not None
        own = scores.scale if scores.row_scale is None else scores.row_scale[rows]
        score = part(self.positive_dots, rows) * own
        if scores.row_bias is not None:
            score = score + scores.row_bias[rows]
        if scores.col_bias is not None:
            score = score + scores.col_bias[columns[rows].clamp(min=0)]
        if scores.row_bias is not None or scores.col_bias is not None:
            score = torch.where(columns[rows] >= 0, score, 0.0)
        if not self.finite:
            score = score + (score - score)
        return score.to(self.problem.dtype)

    def _positive_dots(self) -> Tensor | None:
        problem = self.problem
        if problem.positives is None:
            return None
        if problem.ranks:
            return dots(self.query, self.key, None, problem.positives, problem.dtype)
        return torch.zeros(problem.n, dtype=problem.dtype, device=problem.device)
