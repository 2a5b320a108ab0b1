"""Dot products of listed pairs as a node of autograd's graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .first_order import BackwardOnly, first_order
from .operands import Operand
from .positives import add_gradients, dots


def gathered(query: Tensor, key: Tensor, rows: Tensor | None, columns: Tensor) -> Tensor:
    """<q_rows[e], k_columns[e]>, rows None meaning row e itself; 0 where the column is -1."""
    left, right = _operands(query, key)
    return dots(left, right, rows, columns, left.dtype)


def gathered_gradients(
    query: Tensor,
    key: Tensor,
    rows: Tensor | None,
    columns: Tensor,
    grad: Tensor,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of query and key, if they are wanted."""
    left, right = _operands(query, key)
    weight = torch.where(columns >= 0, grad, 0.0)
    dquery, dkey = (
        torch.zeros(x.shape, dtype=left.dtype, device=x.device) if own else None
        for x, own in zip((query, key), wanted, strict=True)
    )
    add_gradients(left, right, rows, columns, weight, dquery, dkey, weight)
    return (
        None if dquery is None else dquery.to(query.dtype),
        None if dkey is None else dkey.to(key.dtype),
    )


class GatherDot(BackwardOnly):
    """``apply(caller, query, key, rows, columns)``."""

    @staticmethod
    def forward(
        ctx: Any,
        caller: str,
        query: Tensor,
        key: Tensor,
        rows: Tensor | None,
        columns: Tensor,
    ) -> Tensor:
        ctx.caller = caller
        ctx.save_for_backward(query, key, rows, columns)
        return gathered(query, key, rows, columns)

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,) = upstream
        if grad is None:
            return None, None, None, None, None
        query, key, rows, columns = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:3]
        dquery, dkey = gathered_gradients(query, key, rows, columns, grad, wanted)
        return None, dquery, dkey, None, None


def _operands(query: Tensor, key: Tensor) -> tuple[Operand, Operand]:
    double = torch.float64 in (query.dtype, key.dtype)
    dtype = torch.float64 if double else torch.float32
    return Operand(query, dtype), Operand(key, dtype)
