"""Late interaction as registered ops, for whoever traces; see ops/library.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends import named
from ..engine.max_sim import Interaction, backward, forward, in_dtypes
from ..problem.checks import check_starts
from ..problem.spec import parse
from .flops import teach_counters
from .library import letters_of
from .refusals import check_no_tangent, no_batch, no_second_derivative, remember_caller
from .shapes import GIVEN
from .transforms import is_differentiating


def max_sim(of: Interaction) -> Sequence[Tensor]:
    """The outcome, by the op."""
    if not torch.compiler.is_dynamo_compiling():
        teach_counters()
    call = of.spec.text(), *of[1:]
    if is_differentiating():
        found: Sequence[Tensor] = Transformed.apply(*call)
        return found
    return torch.ops.contrastile.max_sim(*call)


@torch.library.custom_op("contrastile::max_sim", mutates_args=())
def _max_sim(
    spec: str,
    query: Tensor,
    counts: Tensor | None,
    key: Tensor,
    starts: Tensor,
    scale: Tensor,
    first: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exps, positives and ranks."""
    lowered = parse(spec)
    check_no_tangent(lowered.caller, (query, key, scale))
    if starts.device.type == "cpu":
        # While this was traced the starts had no values to be checked.
        check_starts(lowered.caller, "document starts", starts, key.shape[0])
    of = Interaction(lowered, query, counts, key, starts, scale, first)
    outcome = forward(named(lowered.caller, lowered.backend), of)
    return outcome.lse, outcome.positive, outcome.rank


@_max_sim.register_fake
def _max_sim_like(
    spec: str,
    query: Tensor,
    counts: Tensor | None,
    key: Tensor,
    starts: Tensor,
    scale: Tensor,
    first: int,
) -> tuple[Tensor, Tensor, Tensor]:
    check_no_tangent(parse(spec).caller, (query, key, scale))
    n = query.shape[0]
    lse, positive = (query.new_empty(n, dtype=torch.float64) for _ in range(2))
    return lse, positive, query.new_empty(n, dtype=torch.int64)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    spec, *tensors, first = inputs
    ctx.call = spec, first
    ctx.save_for_backward(*tensors, output[0])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, upstream: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Of the op's arguments."""
    spec, first = ctx.call
    *tensors, lse = ctx.saved_tensors
    wanted = [ctx.needs_input_grad[place] for place in (1, 3, 5)]
    grads = [torch.zeros_like(lse) if grad is None else grad for grad in upstream[:2]]
    teach_counters()
    call = spec, *tensors, first, lse, *grads, letters_of(wanted)
    if is_differentiating():
        found = TransformedGradients.apply(*call)
    else:
        found = torch.ops.contrastile.max_sim_gradients(*call)
    there = iter(found)
    query, key, scale = (next(there) if own else None for own in wanted)
    return None, query, None, key, None, scale, None


_max_sim.register_autograd(lambda ctx, *grads: _gradients(ctx, grads), setup_context=_save)
_max_sim.register_vmap(no_batch)


class Transformed(torch.autograd.Function):
    """The op inside torch.func.grad and vjp, which want a Function of this form in its place."""

    @staticmethod
    def forward(*call: Any) -> tuple[Tensor, ...]:
        return tuple(torch.ops.contrastile.max_sim(*call))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _save(ctx, inputs, output)
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, upstream)


class TransformedGradients(torch.autograd.Function):
    """The op of the backward pass inside torch.func.grad and vjp."""

    @staticmethod
    def forward(*call: Any) -> tuple[Tensor, ...]:
        return tuple(torch.ops.contrastile.max_sim_gradients(*call))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        remember_caller(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        return no_second_derivative(ctx, *upstream)


@torch.library.custom_op("contrastile::max_sim_gradients", mutates_args=())
def _max_sim_gradients(
    spec: str,
    query: Tensor,
    counts: Tensor | None,
    key: Tensor,
    starts: Tensor,
    scale: Tensor,
    first: int,
    lse: Tensor,
    grad_lse: Tensor,
    grad_positive: Tensor,
    wanted: str,
) -> list[Tensor]:
    """The gradients that are wanted, of query, key and scale."""
    lowered = parse(spec)
    backend = named(lowered.caller, lowered.backend)
    of = Interaction(lowered, query, counts, key, starts, scale, first)
    asked = [letter == GIVEN for letter in wanted]
    found = backward(backend, of, lse, grad_lse, grad_positive, asked)
    return [grad for grad in in_dtypes(found, (query, key, scale)) if grad is not None]


@_max_sim_gradients.register_fake
def _max_sim_gradients_like(
    spec: str,
    query: Tensor,
    counts: Tensor | None,
    key: Tensor,
    starts: Tensor,
    scale: Tensor,
    first: int,
    lse: Tensor,
    grad_lse: Tensor,
    grad_positive: Tensor,
    wanted: str,
) -> list[Tensor]:
    return [
        torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for x, letter in zip((query, key, scale), wanted, strict=True)
        if letter == GIVEN
    ]


_max_sim_gradients.register_autograd(no_second_derivative, setup_context=remember_caller)
_max_sim_gradients.register_vmap(no_batch)
