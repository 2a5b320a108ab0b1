"""The pass over a block in plain torch: what the compiled pass does, one operation at a time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.blocks import Block
from ..engine.positives import put, take
from ..engine.row_steps import COARSE, LOG2E
from ..engine.run import Run
from ..engine.vectors import ChannelVectors, TermVectors
from ..problem import Phi


class TorchKernel:
    """Blocks by torch.mm and elementwise torch."""

    def __init__(self, run: Run) -> None:
        self.run = run
        for vectors in run.vectors:
            if isinstance(vectors, ChannelVectors) and vectors.shifts.absent:
                vectors.use_running_shift(run.problem)

    def reduce(self, block: Block) -> None:
        """Add the block to the run's sums and counts."""
        run = self.run
        with_cols = block.mirrored if run.problem.triangle else run.problem.columns
        out = run.scratch(block) if block.kept is None else block.kept
        dots = run.dot_products(block, out)
        if run.takes_positives:
            columns, taken = run.problem.positives, run.positive_dots
            assert columns is not None and taken is not None
            take(block, dots, columns, taken)
        for position, vectors in enumerate(run.vectors):
            argument, keep = _argument(vectors, dots, block), _kept(vectors, block)
            if position == 0:
                self._count(argument, keep, block, with_cols)
            if isinstance(vectors, ChannelVectors):
                _add_exponentials(vectors, argument, keep, block, run.problem.rows, with_cols)
            else:
                _add_phi(vectors, argument, keep, block, run.problem.rows, with_cols)

    def finish(self) -> None:
        """Nothing waits: every block was added in full."""

    def weights(self, block: Block, row_products: Tensor | None) -> Tensor:
        """G of the block."""
        run = self.run
        out = run.scratch(block)
        dots = block.kept if block.kept is not None else run.dot_products(block, out)
        total: Tensor | None = None
        for vectors in run.vectors:
            argument, keep = _argument(vectors, dots, block), _kept(vectors, block)
            if isinstance(vectors, ChannelVectors):
                part = _exponential_weights(vectors, argument, block)
            else:
                part = _phi_weights(vectors, argument, block)
            if keep is not None:
                part = torch.where(keep, part, 0.0)
            total = part if total is None else total + part
        assert total is not None
        if row_products is not None:
            product = torch.where(total != 0, total * dots, 0.0).sum(1)
            row_products[block.rows] += block.share(run.problem.triangle) * product
        out.copy_(total)
        if run.positive_grad is not None:
            columns = run.problem.positives
            taken = run.positive_dots
            assert columns is not None and taken is not None
            put(block, out, columns, run.positive_grad, taken, row_products, run.problem.triangle)
        return out

    def _count(self, argument: Tensor, keep: Tensor | None, block: Block, cols: bool) -> None:
        counts, thresholds = self.run.counts.counts, self.run.counts.thresholds
        if thresholds.rows is not None and counts.rows is not None:
            above = _within(argument > thresholds.rows[block.rows, None], keep)
            counts.rows[block.rows] += above.sum(1)
        if cols and thresholds.cols is not None and counts.cols is not None:
            above = _within(argument > thresholds.cols[block.cols], keep)
            counts.cols[block.cols] += above.sum(0)


def _within(mask: Tensor, keep: Tensor | None) -> Tensor:
    return mask if keep is None else mask & keep


def _kept(vectors: ChannelVectors | TermVectors, block: Block) -> Tensor | None:
    pairs = vectors.reduction.pairs
    return None if pairs is None else pairs.block(block.rows, block.cols)


def _argument(vectors: ChannelVectors | TermVectors, dots: Tensor, block: Block) -> Tensor:
    """The exponent in bits (channel) or the argument of phi (term), in fp64.

    Plain torch has no fused multiply-add: in fp32 each step would round at the size of the score.
    """
    dots = dots.double()
    rows, cols = block.rows, block.cols
    if isinstance(vectors, ChannelVectors):
        argument = dots * _of_rows(vectors.coef_lo, rows) + dots * _of_rows(vectors.coef_hi, rows)
    else:
        argument = dots * _of_rows(vectors.coef, rows)
    if vectors.row_offset is not None:
        argument = argument + vectors.row_offset[rows, None]
    if vectors.col_offset is not None:
        argument = argument + vectors.col_offset[cols]
    if isinstance(vectors, ChannelVectors):
        for pairs, weight in vectors.reduction.class_log_weights:
            bits = weight * LOG2E
            argument = argument + pairs.block(rows, cols).to(dots.dtype) * bits
    return argument


def _of_rows(value: float | Tensor, rows: slice) -> float | Tensor:
    return value[rows, None] if isinstance(value, Tensor) else value


def _add_exponentials(
    vectors: ChannelVectors,
    exponent: Tensor,
    keep: Tensor | None,
    block: Block,
    rows: bool,
    cols: bool,
) -> None:
    # An infinite exponent is NaN, not a vanished or a dominant term: never a finite lie.
    exponent = exponent + (exponent - exponent)
    if keep is not None:
        exponent = torch.where(keep, exponent, -math.inf)
    sides = []
    if rows:
        sides.append((vectors.shifts.rows, vectors.sums.rows, block.rows, 1))
    if cols:
        sides.append((vectors.shifts.cols, vectors.sums.cols, block.cols, 0))
    for shifts, sums, span, axis in sides:
        assert shifts is not None and sums is not None
        old = shifts[span]
        new = torch.maximum(old, exponent.amax(axis).to(old.dtype))
        finite = torch.where(torch.isneginf(new), 0.0, new)
        part = torch.exp2(_above(exponent, finite.unsqueeze(axis))).sum(axis)
        sums[span] = sums[span] * torch.exp2(old.double() - finite.double()) + part
        shifts[span] = new


def _above(exponent: Tensor, shift: Tensor) -> Tensor:
    """How far exponents lie above a shift; rounded like the shift where that is coarse."""
    rounded = exponent.to(shift.dtype) - shift
    return torch.where(shift.abs() > COARSE, rounded, exponent - shift)


def _exponential_weights(vectors: ChannelVectors, exponent: Tensor, block: Block) -> Tensor:
    total = torch.zeros_like(exponent)
    if vectors.grads.rows is not None and vectors.lse.rows is not None:
        at = block.rows
        power = torch.exp2(_above(exponent, vectors.lse.rows[at, None]))
        total += (
            torch.where(vectors.grads.rows[at, None] != 0, power, 0.0)
            * vectors.grads.rows[at, None]
        )
    if vectors.grads.cols is not None and vectors.lse.cols is not None:
        at = block.cols
        power = torch.exp2(_above(exponent, vectors.lse.cols[at]))
        total += torch.where(vectors.grads.cols[at] != 0, power, 0.0) * vectors.grads.cols[at]
    return total


def _add_phi(
    vectors: TermVectors, x: Tensor, keep: Tensor | None, block: Block, rows: bool, cols: bool
) -> None:
    value = _PHI[vectors.reduction.phi](x)
    if keep is not None:
        value = torch.where(keep, value, 0.0)
    if rows and vectors.sums.rows is not None:
        vectors.sums.rows[block.rows] += value.sum(1)
    if cols and vectors.sums.cols is not None:
        vectors.sums.cols[block.cols] += value.sum(0)


def _phi_weights(vectors: TermVectors, x: Tensor, block: Block) -> Tensor:
    upstream = torch.zeros_like(x)
    if vectors.grads.rows is not None:
        upstream += vectors.grads.rows[block.rows, None]
    if vectors.grads.cols is not None:
        upstream += vectors.grads.cols[block.cols]
    return upstream * _SLOPE[vectors.reduction.phi](x) * vectors.reduction.factor


def _softplus(x: Tensor) -> Tensor:
    return -F.logsigmoid(-x)


_PHI = {
    Phi.SOFTPLUS: _softplus,
    Phi.RELU: torch.relu,
    Phi.IDENTITY: torch.clone,
    Phi.SQUARE: torch.square,
}
_SLOPE = {
    Phi.SOFTPLUS: torch.sigmoid,
    Phi.RELU: lambda x: (x > 0).to(x.dtype),
    Phi.IDENTITY: torch.ones_like,
    Phi.SQUARE: lambda x: 2 * x,
}
