"""The O(N) steps around the passes: compiled where the extension is there, else plain torch.

At a few hundred rows a dozen small torch operations cost more than the pass itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import native
from .blocks import spans
from .operands import Operand

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)

CHUNK_BYTES = 2**20


def log_sums(shift: Tensor, total: Tensor) -> Tensor:
    """ln(2^shift total); -inf where the total is 0."""
    module = native.load_for(shift)
    if module is None:
        return ((shift.double() + total.log2()) * LN2).to(shift.dtype)
    out = torch.empty_like(shift)
    module.log_sums(
        native.is_double(shift), shift.data_ptr(), total.data_ptr(), out.data_ptr(), len(out)
    )
    return out


def channel_gradients(
    lse: Tensor, grad: Tensor, factor: float, shift: float | None, lse_out: Tensor, grad_out: Tensor
) -> None:
    """The lse in bits and the coefficient of G that its upstream gradient asks for.

    A fixed shift is folded into the coefficient: one exp then serves rows and columns. An empty
    row has no coefficient.
    """
    module = native.load_for(lse)
    if module is None:
        kept = ~torch.isneginf(lse)
        bits = torch.where(kept, lse.double() * LOG2E, 0.0)
        weight = torch.where(kept, grad.double() * factor, 0.0)
        if shift is not None:
            weight = weight * torch.exp2(shift - bits)
        lse_out.copy_(bits)
        grad_out.copy_(weight)
        return
    grad = grad.to(lse.dtype).contiguous()
    module.channel_gradients(
        native.is_double(lse),
        lse.data_ptr(),
        grad.data_ptr(),
        len(lse),
        factor,
        shift is not None,
        shift or 0.0,
        lse_out.data_ptr(),
        grad_out.data_ptr(),
    )


def row_products(gradient: Tensor, operand: Operand) -> Tensor:
    """<gradient_i, x_i> for each row, in fp64, without a copy of either."""
    out = torch.empty(len(gradient), dtype=torch.float64, device=gradient.device)
    module = native.load_for(gradient)
    if module is None:
        for span in spans(0, len(gradient), chunk_rows(operand)):
            out[span] = (gradient[span] * operand.rows(span)).sum(1)
        return out
    x = operand.tensor
    module.row_products(
        native.is_double(gradient),
        gradient.data_ptr(),
        x.data_ptr(),
        native.DTYPES[x.dtype],
        *x.shape,
        *x.stride(),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def chunk_rows(operand: Operand) -> int:
    """Rows of which a widened copy fits a cache-sized chunk."""
    width = max(operand.tensor.shape[1], 1) * operand.dtype.itemsize
    return max(CHUNK_BYTES // width, 1)
