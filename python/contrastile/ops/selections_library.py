"""Selections as a registered op, for whoever traces; see ops/library.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends import named
from ..engine.selections import Choice, operands_of, rows_of_picked
from ..problem.checks import check_starts
from ..problem.spec import QUERY, Sizes, parse
from .flops import teach_counters
from .gather_library import gradients_of_pairs
from .library import in_own_memory
from .refusals import check_no_tangent, no_batch
from .transforms import is_differentiating


def select(choice: Choice, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Values and columns, by the op."""
    if not torch.compiler.is_dynamo_compiling():
        teach_counters()
    call = choice.spec.text(), choice.k, choice.starts
    if is_differentiating():
        found: Sequence[Tensor] = Transformed.apply(call, *tensors)
        return found
    return torch.ops.contrastile.select(list(tensors), *call)


@torch.library.custom_op("contrastile::select", mutates_args=())
def _select(tensors: list[Tensor], spec: str, k: int, starts: Tensor | None) -> list[Tensor]:
    """Values and columns of what is picked."""
    lowered = parse(spec)
    check_no_tangent(lowered.caller, tensors)
    if starts is not None and starts.device.type == "cpu":
        # While this was traced the starts had no values to be checked.
        check_starts(lowered.caller, "group_starts", starts, Sizes.of(lowered, tensors).m)
    picked = Choice(lowered, k, starts).made(named(lowered.caller, lowered.backend), tensors)
    return in_own_memory([*picked])


@_select.register_fake
def _select_like(tensors: list[Tensor], spec: str, k: int, starts: Tensor | None) -> list[Tensor]:
    lowered = parse(spec)
    check_no_tangent(lowered.caller, tensors)
    sizes, query = Sizes.of(lowered, tensors), tensors[QUERY]
    shape = sizes.n, Choice(lowered, k, starts).width
    return [query.new_empty(shape, dtype=sizes.dtype), query.new_empty(shape, dtype=torch.int64)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    tensors, spec, *_ = inputs
    ctx.spec, ctx.count = parse(spec), len(tensors)
    ctx.save_for_backward(*operands_of(ctx.spec, tensors), output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: Tensor | None, wanted: Sequence[bool]) -> list[Tensor | None]:
    """The gradient of each tensor."""
    found: list[Tensor | None] = [None] * ctx.count
    if grad is None:
        return found
    query, key, columns = ctx.saved_tensors
    slots = [QUERY, max(ctx.spec.key, QUERY)]
    listed = rows_of_picked(columns), columns.flatten()
    saved = query, key, *listed
    both = gradients_of_pairs(saved, tuple([wanted[slot] for slot in slots]), grad.flatten())
    for slot, own in zip(slots, both, strict=True):
        known = found[slot]
        found[slot] = own if known is None or own is None else known + own
    return found


def _select_backward(ctx: Any, upstream: Sequence[Tensor | None]) -> tuple[Any, ...]:
    return _gradients(ctx, upstream[0], ctx.needs_input_grad[0]), None, None, None


_select.register_autograd(_select_backward, setup_context=_save)
_select.register_vmap(no_batch)


class Transformed(torch.autograd.Function):
    """The op inside torch.func.grad and vjp, which want a Function of this form in its place."""

    @staticmethod
    def forward(call: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ops.contrastile.select(list(tensors), *call))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        call, *tensors = inputs
        _save(ctx, (tensors, *call), output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx, upstream[0], ctx.needs_input_grad[1:])
