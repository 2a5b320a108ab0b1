"""The O(N) steps around a pass in plain torch: log-sum-exps, and the coefficients of G."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .operands import Operand

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)

CHUNK_BYTES = 2**20

# From here on half an ulp of an fp32 exponent nears the range of 2^y: of such scores only rounded
# differences are meant, as in the dense formula.
COARSE = 2.0**28


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

    They are a shift for the exponents (the rounded lse, or the given shift) and a weight that makes
    up for the difference: rounding the lse alone would change the sum of a row's weights, which the
    positive's weight must cancel. An empty row has no weight.
    """
    empty = torch.isneginf(lse)
    if shift is None:
        bits = lse.masked_fill(empty, 0.0)
        lse_out.copy_(bits)
        weight = torch.where(bits.abs() > COARSE, 0.0, lse_out.double() - bits).exp2_()
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
