"""Small tensors between ranks, differentiably: what O(N) formulas need of other ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..engine.first_order import BackwardOnly, first_order
from .collectives import Collectives
from .shares import Share


class Everywhere(BackwardOnly):
    """``apply(caller, collectives, share, vector)``: the entries of all ranks, whose gradients are
    summed over ranks.
    """

    @staticmethod
    def forward(
        ctx: Any, caller: str, collectives: Collectives, share: Share, vector: Tensor
    ) -> Tensor:
        ctx.caller, ctx.call = caller, (collectives, share)
        return collectives.gather(vector.view_as(vector), share.sizes)

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, None, None, Tensor]:
        collectives, share = ctx.call
        (grad,) = upstream
        return None, None, None, collectives.scatter_sum(grad, share.sizes)


class Total(BackwardOnly):
    """``apply(caller, collectives, values)``: the sum over ranks, and so of its gradient."""

    @staticmethod
    def forward(ctx: Any, caller: str, collectives: Collectives, values: Tensor) -> Tensor:
        ctx.caller, ctx.collectives = caller, collectives
        return collectives.sum(values)

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, None, Tensor]:
        (grad,) = upstream
        return None, None, ctx.collectives.sum(grad)


class Replicated(BackwardOnly):
    """``apply(caller, collectives, shared, value)``: a number, whose gradient is the sum over the
    ranks if it is ``shared()`` by all; known in the backward pass, as one number may also be that
    of a single row.
    """

    @staticmethod
    def forward(
        ctx: Any, caller: str, collectives: Collectives, shared: Callable[[], bool], value: Tensor
    ) -> Tensor:
        ctx.caller, ctx.collectives, ctx.shared = caller, collectives, shared
        return value.view_as(value)

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, None, None, Tensor]:
        (grad,) = upstream
        return None, None, None, ctx.collectives.sum(grad) if ctx.shared() else grad


class Quotient(BackwardOnly):
    """``apply(caller, collectives, factor, total, count)``: the totals of all ranks over their
    counts. The gradient of this rank's total is that of the result times ``factor`` / count.

    A rank's total is a part of one sum, of which each rank differentiates its own: so the gradient
    is not summed over ranks.
    """

    @staticmethod
    def forward(
        ctx: Any,
        caller: str,
        collectives: Collectives,
        factor: float,
        total: Tensor,
        count: Tensor | float,
    ) -> Tensor:
        number = torch.as_tensor(count, dtype=torch.float64, device=total.device)
        whole, number = collectives.sum(torch.stack([total.double(), number]))
        number = torch.where(number > 0, number, 1.0)
        ctx.caller, ctx.slope = caller, factor / number
        return (whole / number).to(total.dtype)

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, None, None, Tensor, None]:
        (grad,) = upstream
        return None, None, None, (grad * ctx.slope).to(grad.dtype), None
