"""Powers of exponents of any size, in plain torch: each row and column has a shift of its own.

The largest exponent so far in the forward pass, the log-sum-exp in the backward pass.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..engine.plan import Block
from ..engine.row_steps import ROUNDED_FROM
from .coefficients import Coefficients
from .kept_out import KeptOut


def add_powers(
    exponent: Tensor,
    kept_out: KeptOut,
    sides: list[tuple[Tensor, Tensor, slice, int]],
    dtype: torch.dtype,
) -> None:
    """Add the powers to the sums of rows and of columns, and move their shifts.

    ``sides``: shifts, sums, the block's part of them, and the axis that is summed over.
    """
    # An infinite exponent is NaN, not a vanished or a dominant term: never a finite lie.
    exponent = exponent + (exponent - exponent)
    kept_out.fill_(exponent, -math.inf)
    for shifts, sums, span, axis in sides:
        old = shifts[span]
        new = torch.maximum(old, exponent.amax(axis).to(old.dtype))
        finite = torch.where(torch.isneginf(new), 0.0, new)
        part = torch.exp2(_above(exponent, finite.unsqueeze(axis), dtype)).sum(axis)
        sums[span] = sums[span] * torch.exp2(old.double() - finite.double()) + part
        shifts[span] = new


def weighted_powers(
    own: Coefficients, exponent: Tensor, block: Block, dtype: torch.dtype
) -> Tensor:
    """The powers relative to both log-sum-exps, each times its upstream gradient."""
    total = torch.zeros_like(exponent)
    for start, grads, at in (
        (own.row_from, own.row_grads, (block.rows, None)),
        (own.col_from, own.col_grads, (block.cols,)),
    ):
        if start is not None and grads is not None:
            grad = grads[at]
            power = torch.exp2(_above(exponent, start[at], dtype))
            total += torch.where(grad != 0, power, 0.0) * grad
    return total


def _above(exponent: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """How far exponents lie above a shift; both rounded to ``dtype`` first where they are so large
    that scores count as rounded.
    """
    rounded = exponent.to(dtype) - shift.to(dtype)
    return torch.where(shift.abs() > ROUNDED_FROM, rounded, exponent - shift)
