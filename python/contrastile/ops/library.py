"""The engine as registered ops, for whoever traces: torch.compile, export, make_fx, torch.func.

Eager code does not come here: an empty op takes torch 57 us forward and backward, the node of
engine.node 31 (2 cores). Both call the same two functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
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
from ..problem.checks import check_index
from ..problem.spec import NONE, Sizes, Spec, parse
from . import shapes
from .flops import teach_counters
from .refusals import check_no_tangent, no_batch, no_second_derivative, remember_caller
from .shapes import GIVEN
from .transforms import is_differentiating


def is_watched(sizes: Sizes) -> bool:
    """Whether a mode counts what is computed on a device whose kernels it would not see."""
    return torch._C._len_torch_dispatch_stack() > 0 and sizes.device.type != "cpu"


def reduce(
    backend: Backend, spec: Spec, sizes: Sizes, tensors: Sequence[Tensor]
) -> Sequence[Tensor]:
    """The outputs of the engine, by the op."""
    if not torch.compiler.is_dynamo_compiling():
        teach_counters()
    grad = torch.is_grad_enabled()
    needs = needs_of(spec, [grad and tensor.requires_grad for tensor in tensors])
    mode = shapes.mode_of(backend, spec, sizes, needs)
    call = spec.text(), letters_of(needs), mode.kept, mode.at_once
    if is_differentiating():
        found = Transformed.apply(call, *tensors)
    else:
        found = torch.ops.contrastile.reduce(list(tensors), *call)
    return found[: shapes.count_of_outputs(spec)]


@torch.library.custom_op("contrastile::reduce", mutates_args=())
def _reduce(tensors: list[Tensor], spec: str, needs: str, kept: int, at_once: bool) -> list[Tensor]:
    """The outputs, differentiable ones first, then what the backward pass needs."""
    lowered, wanted = parse(spec), _needs(needs)
    check_no_tangent(lowered.caller, tensors)
    backend, sizes = named(lowered.caller, lowered.backend), Sizes.of(lowered, tensors)
    if lowered.positives != NONE and sizes.device.type == "cpu":
        # While this was traced the columns had no values to be checked.
        check_index(lowered.caller, "positives", tensors[lowered.positives], sizes.n, sizes.m)
    outcome = forward(backend, lowered, sizes, tensors, wanted, Mode(kept, at_once))
    outputs, others = outcome.outputs(lowered)
    residual = complete(outcome.residual, backend, lowered, sizes)
    return in_own_memory([*outputs, *others, *flatten(residual)[0]])


@_reduce.register_fake
def _reduce_like(
    tensors: list[Tensor], spec: str, needs: str, kept: int, at_once: bool
) -> list[Tensor]:
    lowered, mode = parse(spec), Mode(kept, at_once)
    check_no_tangent(lowered.caller, tensors)
    backend = named(lowered.caller, lowered.backend)
    outcome = shapes.outcome_like(backend, lowered, tensors, _needs(needs), mode)
    outputs, others = outcome.outputs(lowered)
    return [*outputs, *others, *flatten(outcome.residual)[0]]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    tensors, *call = inputs
    ctx.call, ctx.count = call, len(tensors)
    residual = output[shapes.count_of_outputs(parse(call[0])) :]
    ctx.save_for_backward(*tensors, *residual)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, upstream: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradient of each tensor, by the op."""
    spec, needs = parse(ctx.call[0]), _needs(ctx.call[1])
    saved, count = ctx.saved_tensors, ctx.count
    grads = upstream[: shapes.count_of_gradients(spec)]
    given = [grad for grad in grads if grad is not None]
    if not given:
        return [None] * count
    teach_counters()
    call = letters_of([grad is not None for grad in grads]), *ctx.call
    sets = list(saved[:count]), list(saved[count:]), given
    if is_differentiating():
        found = TransformedBackward.apply(
            torch.ops.contrastile.weigh, call, [len(own) for own in sets], *chain(*sets)
        )
    else:
        found = torch.ops.contrastile.weigh(*sets, *call)
    there = iter(found)
    return in_slots(spec, Values(*[next(there) if need else None for need in needs]), count)


def _reduce_backward(ctx: Any, upstream: Sequence[Tensor | None]) -> tuple[Any, ...]:
    spec, needs = parse(ctx.call[0]), _needs(ctx.call[1])
    wanted = needs_of(spec, ctx.needs_input_grad[0])
    if any(want and not need for want, need in zip(wanted, needs, strict=True)):
        raise RuntimeError(
            f"{spec.caller}: this graph was made of tensors that need no gradient, and has none "
            "for them; trace it with tensors that require_grad, outside of torch.no_grad"
        )
    return _gradients(ctx, upstream), None, None, None, None


_reduce.register_autograd(_reduce_backward, setup_context=_save)
_reduce.register_vmap(no_batch)


class Transformed(torch.autograd.Function):
    """The op inside torch.func.grad and vjp, which want a Function of this form in its place."""

    @staticmethod
    def forward(call: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ops.contrastile.reduce(list(tensors), *call))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        call, *tensors = inputs
        _save(ctx, (tensors, *call), output)
        integers = [tensor for tensor in output if not tensor.is_floating_point()]
        ctx.mark_non_differentiable(*integers)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx, upstream)


class TransformedBackward(torch.autograd.Function):
    """An op of a backward pass, of lists of tensors, inside torch.func.grad and vjp."""

    @staticmethod
    def forward(
        op: Any, call: tuple[Any, ...], lengths: list[int], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        sets = iter(tensors)
        own = [list(islice(sets, length)) for length in lengths]
        return tuple(op(*own, *call))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        remember_caller(ctx, inputs[1], output)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        return no_second_derivative(ctx, *upstream)


@torch.library.custom_op("contrastile::weigh", mutates_args=())
def _weigh(
    tensors: list[Tensor],
    residual: list[Tensor],
    upstream: list[Tensor],
    given: str,
    spec: str,
    needs: str,
    kept: int,
    at_once: bool,
) -> list[Tensor]:
    """The gradients that are needed, of query, key, scale, biases."""
    lowered, mode, wanted = parse(spec), Mode(kept, at_once), _needs(needs)
    backend, sizes = named(lowered.caller, lowered.backend), Sizes.of(lowered, tensors)
    form = flatten(shapes.residual_form_of(backend, lowered, tensors, wanted, mode))[1]
    there = iter(upstream)
    grads = [next(there) if letter == GIVEN else None for letter in given]
    found = unflatten(residual, form)
    values = backward(backend, lowered, sizes, tensors, found, wanted, mode, grads)
    pairs = zip(wanted, values, strict=True)
    return in_own_memory([value for need, value in pairs if need and value is not None])


@_weigh.register_fake
def _weigh_like(
    tensors: list[Tensor],
    residual: list[Tensor],
    upstream: list[Tensor],
    given: str,
    spec: str,
    needs: str,
    kept: int,
    at_once: bool,
) -> list[Tensor]:
    return [
        torch.empty_like(tensors[slot], memory_format=torch.contiguous_format)
        for slot, need in zip(parse(spec).differentiable, _needs(needs), strict=True)
        if need
    ]


_weigh.register_autograd(no_second_derivative, setup_context=remember_caller)
_weigh.register_vmap(no_batch)


def letters_of(switches: Sequence[bool]) -> str:
    """Switches as one word: torch.jit.trace knows no lists of them."""
    return "".join([GIVEN if switch else "-" for switch in switches])


def _needs(letters: str) -> Needs:
    return Needs(*[letter == GIVEN for letter in letters])


def complete(residual: Residual, backend: Backend, spec: Spec, sizes: Sizes) -> Residual:
    """With a tensor for everything that its shapes in a trace promise, and nothing more.

    How many tensors an op returns may not depend on sizes or values, but what an eager call leaves
    does: no kept dot products, or the powers of a small problem.
    """
    state, ready = residual.state, residual.ready
    if state is not None:
        kept = state.kept
        if kept is None:
            kept = torch.empty(0, dtype=sizes.dtype, device=sizes.device)
        # Sums of a function have no shifts, but numbers in their place, as outputs are compared.
        shifts = state.shifts
        if not spec.log_sums and shifts is not None:
            shifts = torch.zeros_like(shifts)
        state = state._replace(kept=kept, powers=None, shifts=shifts)
        residual = residual._replace(state=state)
    if ready is not None and ready.factor is None and backend.has_forms:
        one = torch.ones((), dtype=sizes.dtype, device=sizes.device)
        residual = residual._replace(ready=ready._replace(factor=one))
    return residual


def in_own_memory(tensors: list[Tensor]) -> list[Tensor]:
    """Each in memory of its own, as an op has to return them."""
    seen: set[int] = set()
    apart = []
    for tensor in tensors:
        place = tensor.untyped_storage()._cdata
        own = place not in seen and tensor.is_contiguous()
        seen.add(place)
        apart.append(tensor if own else tensor.clone(memory_format=torch.contiguous_format))
    return apart
