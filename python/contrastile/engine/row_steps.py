"""The O(N) steps around a pass in plain torch: log-sum-exps, and the coefficients of G."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .operands import Operand

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)

CHUNK_BYTES = 2**20

# Exponents so large are 32 apart in fp32, so that rounding one moves 2^y by up to 16 bits. From
# here on nothing makes up for roundings: scores count as rounded, as in the dense formula.
ROUNDED_FROM = 2.0**28


def log_sums(shift: Tensor | float, total: Tensor, bits: Tensor, dtype: torch.dtype) -> Tensor:
    """ln(2^shift total) of fp64 totals, and in ``bits`` its log2; -inf where the total is 0."""
    torch.log2(total, out=bits)
    if isinstance(shift, Tensor) or shift != 0.0:
        bits.add_(shift)
    return (bits * LN2).to(dtype)


def channel_gradients(
    lse: Tensor,
    grad: Tensor,
    factor: float,
    shift: float | None,
    lse_out: Tensor,
    grad_out: Tensor,
) -> None:
    """The coefficients of G that the upstream gradient of an lse (fp64, bits) asks for.

    They are what exponents are taken relative to (the rounded lse, or the given shift) and a factor
    of the powers, which makes up for what that differs from the lse: rounding the lse alone would
    change the sum of a row's weights, which the positive's weight must cancel. For an empty row the
    factor is 0.
    """
    empty = torch.isneginf(lse)
    if shift is None:
        bits = lse.masked_fill(empty, 0.0)
        lse_out.copy_(bits)
        weight = torch.where(bits.abs() > ROUNDED_FROM, 0.0, lse_out.double() - bits).exp2_()
    else:
        weight = torch.sub(shift, lse).exp2_()
    weight.mul_(grad)
    if factor != 1.0:
        weight.mul_(factor)
    grad_out.copy_(weight.masked_fill_(empty, 0.0))


def chunk_rows(operand: Operand) -> int:
    """Rows of which a widened copy fits a cache-sized chunk."""
    width = max(operand.tensor.shape[1], 1) * operand.dtype.itemsize
    return max(CHUNK_BYTES // width, 1)
