"""Rows of unit length as one node of autograd's graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import native
from .first_order import BackwardOnly, first_order


def unit_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows divided by their length, in fp32 (fp64); and 1 / length, 0 of a row that counts as 0.

    Compiled in fp64, rounded once; so neither huge nor tiny rows are lost.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    module = native.load_for(x)
    if module is None:
        return _plain_rows(x.to(dtype))
    x = _in_memory(x)
    out = torch.empty(x.shape, dtype=dtype)
    inverse = torch.empty(x.shape[0], dtype=torch.float64)
    code, threads = native.DTYPES[x.dtype], torch.get_num_threads()
    module.unit_rows(x, code, *x.shape, out, inverse, threads)
    return out, inverse


def unit_rows_gradient(x: Tensor, inverse: Tensor, grad: Tensor) -> Tensor:
    r"""The gradient of ``x`` for that of its unit rows :math:`u`: :math:`(g - u \langle u, g
    \rangle) / |x|`.
    """
    module = native.load_for(x)
    if module is None:
        factor = inverse[:, None]
        unit = x.to(grad.dtype) * factor
        across = grad - unit * (unit * grad).sum(1, keepdim=True)
        return (across * factor).to(x.dtype)
    x, grad = _in_memory(x), _in_memory(grad)
    found = torch.empty(x.shape, dtype=grad.dtype)
    code, threads = native.DTYPES[x.dtype], torch.get_num_threads()
    module.unit_rows_gradient(x, code, *x.shape, inverse, grad, found, threads)
    return found.to(x.dtype)


def _plain_rows(wide: Tensor) -> tuple[Tensor, Tensor]:
    length = torch.linalg.vector_norm(wide, dim=1)
    zero = length <= torch.finfo(wide.dtype).tiny
    inverse = length.reciprocal().masked_fill_(zero, 0.0)
    return wide * inverse[:, None], inverse


def _in_memory(x: Tensor) -> Tensor:
    """The numbers of ``x``, row after row."""
    return x.contiguous().resolve_neg()


class UnitLength(BackwardOnly):
    """``apply(caller, x)``."""

    @staticmethod
    def forward(ctx: Any, caller: str, x: Tensor) -> Tensor:
        ctx.caller = caller
        ctx.set_materialize_grads(False)
        out, inverse = unit_rows(x)
        ctx.save_for_backward(x, inverse)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,) = upstream
        if grad is None:
            return None, None
        x, inverse = ctx.saved_tensors
        return None, unit_rows_gradient(x, inverse, grad)
