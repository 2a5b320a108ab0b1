"""Gradients that refuse to be differentiated again, instead of being silently constant."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ..problem.storage import check_gradients

Backward = Callable[..., tuple[Tensor | None, ...]]


class BackwardOnly(torch.autograd.Function):
    """A node of ``ctx.caller`` that has no forward-mode derivative."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        raise no_tangent(ctx.caller)


def no_tangent(caller: str) -> RuntimeError:
    """The error of a forward-mode derivative."""
    return RuntimeError(
        f"{caller}: forward-mode derivatives (dual tensors) are not supported; "
        "use .backward() or torch.autograd.grad"
    )


class NoSecondDerivative(torch.autograd.Function):
    """The identity, tied to what its result depends on; its backward raises."""

    @staticmethod
    def forward(ctx: Any, caller: str, gradient: Tensor, *tied: Tensor) -> Tensor:
        ctx.caller = caller
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Tensor:
        raise RuntimeError(
            f"{ctx.caller}: double backward is not supported, a loss can be differentiated once; "
            "use the dense reference formula of the loss for second derivatives"
        )


def first_order(backward: Backward) -> Backward:
    """A backward pass whose results raise when they are differentiated.

    torch's own ``once_differentiable`` does so only if an upstream gradient depends on an input:
    where the loss is linear in the stats, its second derivative would be missing without a word.
    """

    @wraps(backward)
    def guarded(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        check_gradients(ctx.caller, upstream)
        if not torch.is_grad_enabled():
            return backward(ctx, *upstream)
        with torch.no_grad():
            gradients = backward(ctx, *upstream)
        sources = (*ctx.saved_tensors, *upstream)
        tied = [t for t in sources if t is not None and t.requires_grad]
        return tuple(
            None
            if g is None
            else NoSecondDerivative.apply(ctx.caller, g.detach().requires_grad_(), *tied)
            for g in gradients
        )

    return guarded
