"""Powers of exponents of any size, in plain torch: each row and column has a shift of its own.

The largest exponent so far in the forward pass, the log-sum-exp in the backward pass.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..engine.blocks import Block
from ..engine.row_steps import COARSE
from ..engine.vectors import ChannelVectors
from .kept_out import KeptOut


def add_powers(
    vectors: ChannelVectors,
    exponent: Tensor,
    kept_out: KeptOut,
    block: Block,
    rows: bool,
    cols: bool,
) -> None:
    """Add the powers to the sums of rows and of columns, and move their shifts."""
    # An infinite exponent is NaN, not a vanished or a dominant term: never a finite lie.
    exponent = exponent + (exponent - exponent)
    kept_out.fill_(exponent, -math.inf)
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
        part = torch.exp2(_above(exponent, finite.unsqueeze(axis), vectors.dtype)).sum(axis)
        sums[span] = sums[span] * torch.exp2(old.double() - finite.double()) + part
        shifts[span] = new


def weighted_powers(vectors: ChannelVectors, exponent: Tensor, block: Block) -> Tensor:
    """The powers relative to both log-sum-exps, each times its upstream gradient."""
    total = torch.zeros_like(exponent)
    for lse, grads, at in (
        (vectors.lse.rows, vectors.grads.rows, (block.rows, None)),
        (vectors.lse.cols, vectors.grads.cols, (block.cols,)),
    ):
        if lse is not None and grads is not None:
            grad = grads[at]
            power = torch.exp2(_above(exponent, lse[at], vectors.dtype))
            total += torch.where(grad != 0, power, 0.0) * grad
    return total


def _above(exponent: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """How far exponents lie above a shift; both rounded to ``dtype`` where that is coarse."""
    rounded = exponent.to(dtype) - shift.to(dtype)
    return torch.where(shift.abs() > COARSE, rounded, exponent - shift)
