"""The pass over a block in plain torch: what the compiled pass does, one operation at a time.

In fp64, whatever the embeddings are. Plain torch has no fused multiply-add on every processor: in
fp32 each step of an exponent would round at the size of the score. And fp64 has the range for the
powers of ordinary scores as they are, without a shift, so that rows and columns share them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..engine.blocks import Block, spans
from ..engine.positives import Places, put, take
from ..engine.run import Run
from ..engine.vectors import ChannelVectors, Sides, Vectors
from . import phi, running
from .exponents import argument, exponent_range
from .kept_out import KeptOut

# Scores of a piece: a block is taken a few rows at a time, so that they stay in the cache.
PIECE = 2**17

# Powers of exponents within so many bits, their sums, and their reciprocals times any upstream
# gradient that fp32 can hold are normal numbers of fp64.
REACH = 400.0


class TorchKernel:
    """Blocks by torch.mm and elementwise torch."""

    def __init__(self, run: Run) -> None:
        self.run = run
        if not isinstance(run.carry, Places):
            run.carry = Places()
        self.places = run.carry
        self._memory: dict[str, Tensor] = {}
        for vectors in self._channels():
            vectors.coefficients = torch.float64
            if vectors.shift is None and vectors.shifts.absent:
                vectors.shift = 0.0

    def reduce(self, block: Block) -> None:
        """Add the block to the run's sums and counts."""
        run = self.run
        dots = run.dot_products(block, run.scratch(block) if block.kept is None else block.kept)
        if run.takes_positives:
            columns, taken = run.problem.positives, run.positive_dots
            assert columns is not None and taken is not None
            take(self.places, block, dots, columns, taken)
        self._stay_in_reach(dots)
        rows = run.problem.rows
        cols = block.mirrored if run.problem.triangle else run.problem.columns
        for piece, own in _pieces(block, dots):
            for position, vectors in enumerate(run.vectors):
                x = argument(vectors, own, piece, self._room("x", piece))
                kept_out = KeptOut(vectors.reduction.pairs, piece, self.places)
                if position == 0 and not run.counts.counts.absent:
                    self._count(x, kept_out, piece, cols)
                _add(vectors, x, kept_out, piece, rows, cols)
            if (summed := run.score_sums) is not None:
                x = argument(summed, own, piece, self._room("x", piece))
                kept_out = KeptOut(summed.reduction.pairs, piece, self.places)
                _add(summed, x, kept_out, piece, rows, cols)

    def finish(self) -> None:
        """Nothing waits: every block was added in full."""

    def weights(self, block: Block, row_products: Tensor | None) -> Tensor:
        """G of the block."""
        run = self.run
        out = run.scratch(block)
        dots = block.kept if block.kept is not None else run.dot_products(block, out)
        share = block.share(run.problem.triangle)
        for (piece, own), (_, target) in zip(
            _pieces(block, dots), _pieces(block, out), strict=True
        ):
            total = self._weights(piece, own)
            if row_products is not None:
                product = self._row_products(piece, total, own)
                _of(row_products, piece.rows).add_(product, alpha=share)
            target.copy_(total)
        if run.positive_grad is not None:
            columns, taken = run.problem.positives, run.positive_dots
            assert columns is not None and taken is not None
            put(
                self.places,
                block,
                out,
                columns,
                run.positive_grad,
                taken,
                row_products,
                run.problem.triangle,
            )
        return out

    def _weights(self, piece: Block, dots: Tensor) -> Tensor:
        total: Tensor | None = None
        for vectors in self.run.vectors:
            if vectors.grads.absent:
                continue
            room = self._room("x" if total is None else "y", piece)
            part = self._weigh(vectors, argument(vectors, dots, piece, room), piece)
            KeptOut(vectors.reduction.pairs, piece, self.places).fill_(part, 0.0)
            total = part if total is None else total.add_(part)
        return self._room("x", piece).zero_() if total is None else total

    def _weigh(self, vectors: Vectors, x: Tensor, piece: Block) -> Tensor:
        if not isinstance(vectors, ChannelVectors):
            slope = phi.slope(vectors.reduction.phi, x, vectors.dtype)
            return self._times(slope.mul_(vectors.reduction.factor), vectors.grads, piece)
        if vectors.shift is None:
            total = running.weighted_powers(vectors, x, piece)
        else:
            total = self._times(x.exp2_(), vectors.grads, piece)
        if vectors.lines.rows is not None:
            total.add_(_of(vectors.lines.rows, piece.rows).unsqueeze(1))
        if vectors.lines.cols is not None:
            total.add_(_of(vectors.lines.cols, piece.cols))
        return total

    def _times(self, values: Tensor, grads: Sides, piece: Block) -> Tensor:
        """The values times the gradients of their rows plus those of their columns."""
        rows = None if grads.rows is None else _of(grads.rows, piece.rows).unsqueeze(1)
        cols = None if grads.cols is None else _of(grads.cols, piece.cols)
        if rows is not None and cols is not None:
            return values.mul_(torch.add(rows, cols, out=self._room("sum", piece)))
        return values.mul_(rows if cols is None else cols)

    def _row_products(self, piece: Block, weights: Tensor, dots: Tensor) -> Tensor:
        """Sums of G_ij <q_i, k_j>."""
        sums = self._room("sum", piece).copy_(dots).mul_(weights).sum(1)
        if math.isfinite(float(sums.sum())):
            return sums
        # The dot product of a pair that is kept out may be infinite.
        return torch.where(weights != 0, weights * dots, 0.0).sum(1)

    def _count(self, x: Tensor, kept_out: KeptOut, piece: Block, cols: bool) -> None:
        counts, thresholds = self.run.counts.counts, self.run.counts.thresholds
        kept_out.fill_(x, -math.inf)
        if thresholds.rows is not None and counts.rows is not None:
            counts.rows[piece.rows] += (x > thresholds.rows[piece.rows, None]).sum(1)
        if cols and thresholds.cols is not None and counts.cols is not None:
            counts.cols[piece.cols] += (x > thresholds.cols[piece.cols]).sum(0)

    def _channels(self) -> list[ChannelVectors]:
        return [v for v in self.run.vectors if isinstance(v, ChannelVectors)]

    def _stay_in_reach(self, dots: Tensor) -> None:
        """From the first block on whose exponents need one, channels have a running shift."""
        unshifted = [vectors for vectors in self._channels() if vectors.shift is not None]
        if not unshifted:
            return
        low, high = map(float, torch.aminmax(dots))
        largest = max(-low, high) if math.isfinite(high - low) else math.inf
        for vectors in unshifted:
            least, most = exponent_range(vectors, largest)
            if least < -REACH or most > REACH:
                vectors.use_running_shift(self.run.problem)

    def _room(self, name: str, piece: Block) -> Tensor:
        """Memory for a piece, in fp64, reused by every piece."""
        rows, cols = piece.shape
        if name not in self._memory:
            largest = max(_piece_rows(block) * block.shape[1] for s in self.run.plan for block in s)
            device = self.run.problem.device
            self._memory[name] = torch.empty(largest, dtype=torch.float64, device=device)
        return self._memory[name][: rows * cols].view(rows, cols)


def _piece_rows(block: Block) -> int:
    rows, cols = block.shape
    return min(rows, max(PIECE // cols, 1))


def _pieces(block: Block, values: Tensor) -> Iterator[tuple[Block, Tensor]]:
    """The block a few rows at a time: which pairs they are, and their values."""
    height, step = block.shape[0], _piece_rows(block)
    if height == step:
        yield block, values
        return
    start = block.rows.start
    for own in spans(0, height, step):
        rows = slice(start + own.start, start + own.stop)
        yield Block(rows, block.cols, block.mirrored), values[own]


def _of(vector: Tensor, span: slice) -> Tensor:
    """The entries ``span``; without a view, which costs microseconds, where that is all."""
    return vector if span.stop - span.start == vector.shape[0] else vector[span]


def _add(
    vectors: Vectors, x: Tensor, kept_out: KeptOut, piece: Block, rows: bool, cols: bool
) -> None:
    """Add the powers, or the values of phi, to the sums of rows and of columns."""
    if not isinstance(vectors, ChannelVectors):
        phi.value(vectors.reduction.phi, x, vectors.dtype)
    elif vectors.shift is None:
        running.add_powers(vectors, x, kept_out, piece, rows, cols)
        return
    else:
        x.exp2_()
    kept_out.fill_(x, 0.0)
    if rows and vectors.sums.rows is not None:
        _of(vectors.sums.rows, piece.rows).add_(x.sum(1))
    if cols and vectors.sums.cols is not None:
        _of(vectors.sums.cols, piece.cols).add_(x.sum(0))
