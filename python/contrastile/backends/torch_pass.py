"""The pass over a block in plain torch: what the compiled pass does, one operation at a time.

In fp64, whatever the embeddings are. Plain torch has no fused multiply-add on every processor: in
fp32 each step of an exponent would round at the size of the score. And fp64 has the range for the
powers of ordinary scores as they are, without a shift, so that rows and columns share them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.blocks import Block, spans
from ..engine.positives import Places, put, take
from ..engine.run import Run
from ..engine.vectors import ChannelVectors, Sides, Vectors
from . import phi, running
from .exponents import argument, exponent_range
from .kept_out import KeptOut, Selection

# Scores of a piece: a block is taken a few rows at a time, so that they stay in the cache.
PIECE = 2**18

# Powers of exponents within so many bits, their sums, and their reciprocals times any upstream
# gradient that fp32 can hold are normal numbers of fp64.
REACH = 400.0


@dataclass
class Carry:
    """What the forward pass leaves for the backward pass."""

    places: Places
    # Of a problem of one piece and one channel: used once.
    powers: Tensor | None = None


class TorchKernel:
    """Blocks by torch.mm and elementwise torch."""

    def __init__(self, run: Run) -> None:
        self.run = run
        if not isinstance(run.carry, Carry):
            run.carry = Carry(Places())
        self.carry = run.carry
        self.places = run.carry.places
        self._memory: dict[str, Tensor] = {}
        self._shared = _have_one_exponent(self._channels())
        self._powered: Block | None = None
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
            selection = Selection(piece, self.places)
            for vectors in run.vectors:
                kept_out = selection.kept_out(vectors.reduction.pairs)
                if vectors is run.vectors[0] and not run.counts.counts.absent:
                    self._count(vectors, own, kept_out, piece, cols)
                if isinstance(vectors, ChannelVectors) and vectors.shift is None:
                    x = argument(vectors, own, piece, self._room("x", piece))
                    running.add_powers(vectors, x, kept_out, piece, rows, cols)
                else:
                    _add(vectors, self._values(vectors, own, piece), kept_out, piece, rows, cols)
            if (summed := run.score_sums) is not None:
                kept_out = selection.kept_out(summed.reduction.pairs)
                _add(summed, self._values(summed, own, piece), kept_out, piece, rows, cols)
        if self._leaves_powers(block):
            self.carry.powers = self._room("x", block)

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
        selection = Selection(piece, self.places)
        total: Tensor | None = None
        for vectors in self.run.vectors:
            if vectors.grads.absent:
                continue
            part = self._weigh(vectors, dots, piece, "x" if total is None else "y")
            selection.kept_out(vectors.reduction.pairs).fill_(part, 0.0)
            total = part if total is None else total.add_(part)
        return self._room("x", piece).zero_() if total is None else total

    def _weigh(self, vectors: Vectors, dots: Tensor, piece: Block, room: str) -> Tensor:
        """One reduction's share of G, had it left out no pair."""
        if not isinstance(vectors, ChannelVectors):
            x = argument(vectors, dots, piece, self._room(room, piece))
            slope = phi.slope(vectors.reduction.phi, x, vectors.dtype)
            return self._times(slope.mul_(vectors.reduction.factor), vectors.grads, piece)
        if vectors.shift is None:
            x = argument(vectors, dots, piece, self._room(room, piece))
            total = running.weighted_powers(vectors, x, piece)
        else:
            left, self.carry.powers = self.carry.powers, None
            powers = self._powers(vectors, dots, piece, room) if left is None else left
            total = self._times(powers, vectors.grads, piece)
        if vectors.lines.rows is not None:
            total.add_(_of(vectors.lines.rows, piece.rows).unsqueeze(1))
        if vectors.lines.cols is not None:
            total.add_(_of(vectors.lines.cols, piece.cols))
        return total

    def _values(self, vectors: Vectors, dots: Tensor, piece: Block) -> Tensor:
        """What a reduction sums: the powers without a shift, or the values of phi."""
        if isinstance(vectors, ChannelVectors):
            return self._powers(vectors, dots, piece, "x")
        x = argument(vectors, dots, piece, self._room("x", piece))
        return phi.value(vectors.reduction.phi, x, vectors.dtype)

    def _powers(self, vectors: ChannelVectors, dots: Tensor, piece: Block, room: str) -> Tensor:
        """Powers without a shift; channels that have the same share them."""
        out = self._room(room, piece)
        if not self._shared:
            return argument(vectors, dots, piece, out).exp2_()
        powers = self._room("powers", piece)
        if self._powered is not piece:
            argument(vectors, dots, piece, powers).exp2_()
            self._powered = piece
        return out.copy_(powers)

    def _times(self, values: Tensor, grads: Sides, piece: Block) -> Tensor:
        """The values times the gradients of their rows plus those of their columns."""
        rows = None if grads.rows is None else _of(grads.rows, piece.rows).unsqueeze(1)
        cols = None if grads.cols is None else _of(grads.cols, piece.cols)
        if rows is not None and cols is not None:
            return values.mul_(torch.add(rows, cols, out=self._room("sum", piece)))
        one = rows if cols is None else cols
        assert one is not None, "a reduction without upstream gradients"
        return values.mul_(one)

    def _row_products(self, piece: Block, weights: Tensor, dots: Tensor) -> Tensor:
        """Sums of G_ij <q_i, k_j>."""
        sums = self._room("sum", piece).copy_(dots).mul_(weights).sum(1)
        if math.isfinite(float(sums.sum())):
            return sums
        # The dot product of a pair that is kept out may be infinite.
        return torch.where(weights != 0, weights * dots, 0.0).sum(1)

    def _leaves_powers(self, block: Block) -> bool:
        """Whether the powers are all in one place, and fit the workspace beside what else is."""
        run = self.run
        alone = len(run.vectors) == 1 and len(run.plan) == 1 and len(run.plan[0]) == 1
        if not alone or block.kept is None or _piece_rows(block) < block.shape[0]:
            return False
        (vectors,) = run.vectors
        if not isinstance(vectors, ChannelVectors) or vectors.shift is None:
            return False
        return 4 * 8 * block.kept.numel() <= run.problem.workspace

    def _count(
        self, vectors: Vectors, dots: Tensor, kept_out: KeptOut, piece: Block, cols: bool
    ) -> None:
        counts, thresholds = self.run.counts.counts, self.run.counts.thresholds
        x = argument(vectors, dots, piece, self._room("x", piece))
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


def _have_one_exponent(channels: list[ChannelVectors]) -> bool:
    """Whether there are several channels, and all have the same exponents."""
    reductions = [vectors.reduction for vectors in channels]
    plain = all(
        r.row_log_weight is None and r.col_log_weight is None and not r.class_log_weights
        for r in reductions
    )
    return plain and len(reductions) > 1 and len({r.factor for r in reductions}) == 1


def _add(
    vectors: Vectors, values: Tensor, kept_out: KeptOut, piece: Block, rows: bool, cols: bool
) -> None:
    """Add values to the sums of rows and of columns; what they are of no kept pair is lost."""
    kept_out.fill_(values, 0.0)
    if rows and vectors.sums.rows is not None:
        _of(vectors.sums.rows, piece.rows).add_(values.sum(1))
    if cols and vectors.sums.cols is not None:
        _of(vectors.sums.cols, piece.cols).add_(values.sum(0))
