"""Dot products of listed pairs as registered ops, for whoever traces; see ops.library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engine.gather import gathered, gathered_gradients
from ..problem.checks import check_index
from .refusals import check_no_tangent, no_batch, no_second_derivative, remember_caller
from .transforms import is_differentiating


def gather(query: Tensor, key: Tensor, rows: Tensor | None, columns: Tensor) -> Tensor:
    """The dot products, by the op."""
    if is_differentiating():
        found = TransformedGather.apply(query, key, rows, columns)
    else:
        found = torch.ops.contrastile.gather(query, key, rows, columns)
    return found


@torch.library.custom_op("contrastile::gather", mutates_args=())
def _gather(query: Tensor, key: Tensor, rows: Tensor | None, columns: Tensor) -> Tensor:
    """<q_rows[e], k_columns[e]>."""
    check_no_tangent("gather_dot", (query, key))
    if query.device.type == "cpu":
        # While this was traced the columns had no values to be checked.
        check_index("gather_dot", "columns", columns, columns.shape[0], key.shape[0])
    return gathered(query, key, rows, columns)


@_gather.register_fake
def _gather_like(query: Tensor, key: Tensor, rows: Tensor | None, columns: Tensor) -> Tensor:
    check_no_tangent("gather_dot", (query, key))
    double = torch.float64 in (query.dtype, key.dtype)
    return columns.new_empty(columns.shape, dtype=torch.float64 if double else torch.float32)


def _save_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gather_backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    return *gradients_of_pairs(ctx.saved_tensors, ctx.needs_input_grad[:2], upstream), None, None


def gradients_of_pairs(
    saved: tuple[Any, ...], wanted: tuple[bool, ...], upstream: Tensor
) -> list[Tensor | None]:
    """Of query and key, where they are wanted, by the op; ``saved``: query, key, rows, columns."""
    names = [name for name, own in zip(("query", "key"), wanted, strict=True) if own]
    if not names:
        return [None, None]
    if is_differentiating():
        found = TransformedGradients.apply(*saved, upstream, " ".join(names))
    else:
        found = torch.ops.contrastile.gather_gradients(*saved, upstream, " ".join(names))
    grads = dict(zip(names, found, strict=True))
    return [grads.get("query"), grads.get("key")]


class TransformedGather(torch.autograd.Function):
    """The op inside torch.func.grad and vjp, which want a Function of this form in its place."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, rows: Tensor | None, columns: Tensor) -> Tensor:
        found: Tensor = torch.ops.contrastile.gather(query, key, rows, columns)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save_gather(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return _gather_backward(ctx, *upstream)


class TransformedGradients(torch.autograd.Function):
    """The op of the backward pass inside torch.func.grad and vjp."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return tuple(torch.ops.contrastile.gather_gradients(*args))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        remember_caller(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        return no_second_derivative(ctx, *upstream)


_gather.register_autograd(_gather_backward, setup_context=_save_gather)
_gather.register_vmap(no_batch)


@torch.library.custom_op("contrastile::gather_gradients", mutates_args=())
def _gather_gradients(
    query: Tensor,
    key: Tensor,
    rows: Tensor | None,
    columns: Tensor,
    upstream: Tensor,
    wanted: str,
) -> list[Tensor]:
    """The gradients that are wanted, of query and of key."""
    both = "query" in wanted, "key" in wanted
    found = gathered_gradients(query, key, rows, columns, upstream, both)
    return [grad for grad in found if grad is not None]


@_gather_gradients.register_fake
def _gather_gradients_like(
    query: Tensor,
    key: Tensor,
    rows: Tensor | None,
    columns: Tensor,
    upstream: Tensor,
    wanted: str,
) -> list[Tensor]:
    given = {"query": query, "key": key}
    return [
        torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for name, x in given.items()
        if name in wanted
    ]


_gather_gradients.register_autograd(no_second_derivative, setup_context=remember_caller)
_gather_gradients.register_vmap(no_batch)
