"""The weights of blocks in plain torch: the backward half of the pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine.job import Job
from ..engine.plan import Block
from ..engine.spans import WHOLE
from ..engine.state import State, Upstream
from ..problem import Phi
from . import phi, running
from .coefficients import Coefficients, coefficients_of
from .exponents import values_of
from .kept_out import Selection
from .pieces import Room, of, pieces
from .places import Places, put


class TorchWeigher:
    """Blocks by torch.mm and elementwise torch."""

    unit: Tensor | None = None

    def __init__(
        self, job: Job, state: State, upstream: Upstream, products: bool, rows: slice = WHOLE
    ) -> None:
        self.job, self._state, self._upstream = job, state, upstream
        self._places, self._room = Places(), Room(job)
        # Of a problem of one piece and one log-sum-exp, left by the forward pass; used once.
        self._powers = state.powers
        assert state.shifts is not None
        self._shifts = [None if math.isnan(x) else x for x in state.shifts.tolist()]
        self._own = [
            coefficients_of(job, state, upstream, position, shift, torch.float64, rows)
            for position, shift in enumerate(self._shifts)
        ]
        self._products: Tensor | None = None
        if products:
            self._products = torch.zeros(job.sizes.n, dtype=torch.float64, device=job.sizes.device)

    def products(self) -> Tensor | None:
        """Row sums of G_ij <q_i, k_j>."""
        return self._products

    def weights(self, block: Block) -> Tensor:
        """G of the block."""
        job = self.job
        out = self._room.dots(block)
        kept = job.kept_dots(block)
        dots = job.dot_products(block, out) if kept is None else kept
        share = block.share(job.spec.triangle)
        for piece, (own, target, *planes) in pieces(block, dots, out, *job.planes_of(block)):
            total = self._weigh_piece(piece, own, planes)
            if self._products is not None:
                product = self._row_products(piece, total, own)
                of(self._products, piece.rows).add_(product, alpha=share)
            target.copy_(total)
        if self._upstream.positive is not None:
            assert job.positives is not None and self._state.positive is not None
            put(
                self._places,
                block,
                out,
                job.positives,
                self._upstream.positive,
                self._state.positive,
                self._products,
                job.spec.triangle,
            )
        return out

    def _weigh_piece(self, piece: Block, dots: Tensor, planes: Sequence[Tensor]) -> Tensor:
        selection = Selection(self.job.tensors, piece, self._places, planes)
        last = len(self._own) - 1
        total: Tensor | None = None
        for position, (stat, own) in enumerate(zip(self.job.spec.stats, self._own, strict=True)):
            lines = position == last
            if own.absent:
                continue
            part = self._weigh(position, own, dots, selection, "x" if total is None else "y")
            if lines:
                self._add_lines(part, piece)
            selection.kept_out(stat).fill_(part, 0.0)
            total = part if total is None else total.add_(part)
        return self._room.get("x", piece).zero_() if total is None else total

    def _weigh(
        self, position: int, own: Coefficients, dots: Tensor, selection: Selection, room: str
    ) -> Tensor:
        """One stat's share of G, had it left out no pair."""
        job, piece = self.job, selection.block
        stat, argument = job.spec.stats[position], job.arguments[position]
        left, self._powers = self._powers, None
        if left is not None:
            return self._times(self._room.get(room, piece).copy_(left), own, piece)
        x = values_of(stat, argument, selection, dots, self._room.get(room, piece))
        if stat.phi is not None:
            slope = phi.slope(Phi(stat.phi), x, job.sizes.dtype)
            return self._times(slope.mul_(stat.factor), own, piece)
        if self._shifts[position] is None:
            return running.weighted_powers(own, x, piece, job.sizes.dtype)
        return self._times(x.exp2_(), own, piece)

    def _add_lines(self, values: Tensor, piece: Block) -> None:
        """What kept pairs have beside their powers."""
        if self._upstream.row_line is not None:
            values.add_(of(self._upstream.row_line, piece.rows).unsqueeze(1))
        if self._upstream.col_line is not None:
            values.add_(of(self._upstream.col_line, piece.cols))

    def _times(self, values: Tensor, own: Coefficients, piece: Block) -> Tensor:
        """The values times the gradients of their rows plus those of their columns."""
        rows = None if own.row_grads is None else of(own.row_grads, piece.rows).unsqueeze(1)
        cols = None if own.col_grads is None else of(own.col_grads, piece.cols)
        if rows is not None and cols is not None:
            return values.mul_(torch.add(rows, cols, out=self._room.get("sum", piece)))
        one = rows if cols is None else cols
        assert one is not None, "a stat without upstream gradients"
        return values.mul_(one)

    def _row_products(self, piece: Block, weights: Tensor, dots: Tensor) -> Tensor:
        """Sums of G_ij <q_i, k_j>."""
        sums = self._room.get("sum", piece).copy_(dots).mul_(weights).sum(1)
        if math.isfinite(float(sums.sum())):
            return sums
        # The dot product of a pair that is kept out may be infinite.
        return torch.where(weights != 0, weights * dots, 0.0).sum(1)
