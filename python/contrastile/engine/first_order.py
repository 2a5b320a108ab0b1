"""Gradients that refuse to be differentiated again, instead of being silently constant."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Backward = Callable[..., tuple[Tensor | None, ...]]


class NoSecondDerivative(torch.autograd.Function):
    """The identity, tied to the inputs it was a gradient of; its backward raises."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Tensor:
        raise RuntimeError(
            "contrastile: double backward is not supported, a loss can be differentiated once; "
            "use the dense reference formula of the loss for second derivatives"
        )


def first_order(backward: Backward) -> Backward:
    """A backward pass whose results raise when they are differentiated.

    torch's own ``once_differentiable`` does so only if an upstream gradient depends on an input:
    where the loss is linear in the stats, its second derivative would be missing without a word.
    """

    @wraps(backward)
    def guarded(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = backward(ctx, *upstream)
        if not torch.is_grad_enabled():
            return gradients
        inputs = [t for t in ctx.saved_tensors if t is not None and t.requires_grad]
        return tuple(
            None if g is None else NoSecondDerivative.apply(g.detach().requires_grad_(), *inputs)
            for g in gradients
        )

    return guarded
