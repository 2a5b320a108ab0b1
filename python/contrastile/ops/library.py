"""The engine as registered ops, for whoever traces: torch.compile, export, make_fx, torch.func.

Eager code does not come here: an empty op takes torch 57 us forward and backward, the node of
engine.node 31 (2 cores). Both call the same two functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends import named
from ..engine.backward import backward
from ..engine.flat import flatten, unflatten
from ..engine.forward import Mode, Residual, forward
from ..engine.gradients import Needs, Values
from ..engine.job import Backend
from ..engine.node import in_slots, needs_of
from ..problem.spec import Sizes, Spec, parse
from . import shapes
from .refusals import no_batch, no_second_derivative


def is_watched(sizes: Sizes) -> bool:
    """Whether a mode counts what is computed on a device whose kernels it would not see."""
    return sizes.device.type != "cpu" and torch._C._len_torch_dispatch_stack() > 0


def reduce(
    backend: Backend, spec: Spec, sizes: Sizes, tensors: Sequence[Tensor]
) -> Sequence[Tensor]:
    """The outputs of the engine, by the op."""
    grad = torch.is_grad_enabled()
    needs = needs_of(spec, [grad and tensor.requires_grad for tensor in tensors])
    mode = shapes.mode_of(backend, spec, sizes, needs)
    found = torch.ops.contrastile.reduce(
        list(tensors), spec.text(), list(needs), mode.kept, mode.at_once
    )
    outputs: Sequence[Tensor] = found[: shapes.count_of_outputs(spec)]
    return outputs


@torch.library.custom_op("contrastile::reduce", mutates_args=())
def _reduce(
    tensors: list[Tensor], spec: str, needs: list[bool], kept: int, at_once: bool
) -> list[Tensor]:
    """The outputs, differentiable ones first, then what the backward pass needs."""
    lowered = parse(spec)
    backend, sizes = named(lowered.caller, lowered.backend), Sizes.of(lowered, tensors)
    outcome = forward(backend, lowered, sizes, tensors, Needs(*needs), Mode(kept, at_once))
    outputs, others = outcome.outputs(lowered)
    residual = _complete(outcome.residual, backend, sizes)
    return _apart([*outputs, *others, *flatten(residual)[0]])


@_reduce.register_fake
def _reduce_like(
    tensors: list[Tensor], spec: str, needs: list[bool], kept: int, at_once: bool
) -> list[Tensor]:
    lowered = parse(spec)
    backend, mode = named(lowered.caller, lowered.backend), Mode(kept, at_once)
    outcome = shapes.outcome_like(backend, lowered, tensors, Needs(*needs), mode)
    outputs, others = outcome.outputs(lowered)
    return [*outputs, *others, *flatten(outcome.residual)[0]]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tensors, spec, needs, kept, at_once = inputs
    ctx.call, ctx.count = (spec, needs, kept, at_once), len(tensors)
    residual = output[shapes.count_of_outputs(parse(spec)) :]
    ctx.save_for_backward(*tensors, *residual)
    ctx.set_materialize_grads(False)


def _reduce_backward(ctx: Any, upstream: Sequence[Tensor | None]) -> tuple[Any, ...]:
    spec, needs, kept, at_once = ctx.call
    lowered = parse(spec)
    saved, count = ctx.saved_tensors, ctx.count
    grads = upstream[: shapes.count_of_gradients(lowered)]
    given = [grad is not None for grad in grads]
    if not any(given):
        return None, None, None, None, None
    found = torch.ops.contrastile.weigh(
        list(saved[:count]),
        list(saved[count:]),
        [grad for grad in grads if grad is not None],
        given,
        spec,
        needs,
        kept,
        at_once,
    )
    there = iter(found)
    values = Values(*[next(there) if need else None for need in needs])
    return in_slots(lowered, values, count), None, None, None, None


_reduce.register_autograd(_reduce_backward, setup_context=_save)
_reduce.register_vmap(no_batch)


@torch.library.custom_op("contrastile::weigh", mutates_args=())
def _weigh(
    tensors: list[Tensor],
    residual: list[Tensor],
    upstream: list[Tensor],
    given: list[bool],
    spec: str,
    needs: list[bool],
    kept: int,
    at_once: bool,
) -> list[Tensor]:
    """The gradients that are needed, of query, key, scale, biases."""
    lowered, mode, wanted = parse(spec), Mode(kept, at_once), Needs(*needs)
    backend, sizes = named(lowered.caller, lowered.backend), Sizes.of(lowered, tensors)
    form = flatten(shapes.residual_form_of(backend, lowered, tensors, wanted, mode))[1]
    there = iter(upstream)
    grads = [next(there) if is_there else None for is_there in given]
    found = unflatten(residual, form)
    values = backward(backend, lowered, sizes, tensors, found, wanted, mode, grads)
    pairs = zip(wanted, values, strict=True)
    return _apart([value for need, value in pairs if need and value is not None])


@_weigh.register_fake
def _weigh_like(
    tensors: list[Tensor],
    residual: list[Tensor],
    upstream: list[Tensor],
    given: list[bool],
    spec: str,
    needs: list[bool],
    kept: int,
    at_once: bool,
) -> list[Tensor]:
    lowered = parse(spec)
    slots = in_slots(lowered, Values(*needs), len(tensors))
    order = 0, lowered.key, lowered.scale_slot, lowered.row_bias, lowered.col_bias
    return [
        torch.empty_like(tensors[slot], memory_format=torch.contiguous_format)
        for slot, need in zip(order, needs, strict=True)
        if need and slots[slot]
    ]


_weigh.register_autograd(no_second_derivative)
_weigh.register_vmap(no_batch)


def _complete(residual: Residual, backend: Backend, sizes: Sizes) -> Residual:
    """With all the tensors that the op returns whatever the sizes and values are."""
    state, ready = residual.state, residual.ready
    if state is not None:
        kept = state.kept
        if kept is None:
            kept = torch.empty(0, dtype=sizes.dtype, device=sizes.device)
        residual = residual._replace(state=state._replace(kept=kept, powers=None))
    if ready is not None and ready.factor is None and backend.has_forms:
        one = torch.ones((), dtype=sizes.dtype, device=sizes.device)
        residual = residual._replace(ready=ready._replace(factor=one))
    return residual


def _apart(tensors: list[Tensor]) -> list[Tensor]:
    """Each in memory of its own, as an op has to return them."""
    seen: set[int] = set()
    apart = []
    for tensor in tensors:
        place = tensor.untyped_storage()._cdata
        own = place not in seen and tensor.is_contiguous()
        seen.add(place)
        apart.append(tensor if own else tensor.clone(memory_format=torch.contiguous_format))
    return apart


@torch.library.custom_op("contrastile::gather", mutates_args=())
def _gather(query: Tensor, key: Tensor, rows: Tensor | None, columns: Tensor) -> Tensor:
    """<q_rows[e], k_columns[e]>."""
    return gathered(query, key, rows, columns)


@_gather.register_fake
def _gather_like(query: Tensor, key: Tensor, rows: Tensor | None, columns: Tensor) -> Tensor:
    double = torch.float64 in (query.dtype, key.dtype)
    return columns.new_empty(columns.shape, dtype=torch.float64 if double else torch.float32)


def _save_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gather_backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    query, key, rows, columns = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:2])
    if not any(wanted):
        return None, None, None, None
    found = iter(
        torch.ops.contrastile.gather_gradients(query, key, rows, columns, upstream, wanted)
    )
    grads = [next(found) if own else None for own in wanted]
    return (*grads, None, None)


_gather.register_autograd(_gather_backward, setup_context=_save_gather)
_gather.register_vmap(no_batch)


@torch.library.custom_op("contrastile::gather_gradients", mutates_args=())
def _gather_gradients(
    query: Tensor,
    key: Tensor,
    rows: Tensor | None,
    columns: Tensor,
    upstream: Tensor,
    wanted: list[bool],
) -> list[Tensor]:
    """The gradients that are wanted, of query and of key."""
    both = (wanted[0], wanted[1])
    found = gathered_gradients(query, key, rows, columns, upstream, both)
    return _apart([grad for grad in found if grad is not None])


@_gather_gradients.register_fake
def _gather_gradients_like(
    query: Tensor,
    key: Tensor,
    rows: Tensor | None,
    columns: Tensor,
    upstream: Tensor,
    wanted: list[bool],
) -> list[Tensor]:
    pairs = zip((query, key), wanted, strict=True)
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x, own in pairs if own]


_gather_gradients.register_autograd(no_second_derivative)
_gather_gradients.register_vmap(no_batch)
