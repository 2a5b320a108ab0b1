"""A sweep as registered ops, for whoever traces; see ops/library.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..backends import named
from ..engine.flat import flatten, unflatten
from ..engine.forward import Mode, Outcome
from ..engine.gradients import Needs
from ..engine.job import Backend
from ..engine.sweep.backward import backward
from ..engine.sweep.forward import forward
from ..engine.sweep.node import split
from ..problem.checks import check_index
from ..problem.spec import NONE
from ..problem.sweep_spec import SweepSpec, parse_sweep, sizes_of
from . import shapes
from .flops import teach_counters
from .library import TransformedBackward, complete, in_own_memory, letters_of
from .refusals import check_no_tangent, no_batch, no_second_derivative, remember_caller
from .shapes import GIVEN
from .transforms import is_differentiating

# What a reduction leaves for the backward pass: everything but gradients.
ALL = Needs(True, True, True, True, True)
NOTHING = Needs(False, False, False, False, False)
TWO_PASSES = Mode(0, False)


def sweep(spec: SweepSpec, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The outputs of a sweep, by the op."""
    if not torch.compiler.is_dynamo_compiling():
        teach_counters()
    grad = torch.is_grad_enabled()
    possible = set(spec.differentiable())
    wanted = [
        grad and slot in possible and tensor.requires_grad for slot, tensor in enumerate(tensors)
    ]
    call = spec.text(), letters_of(wanted)
    if is_differentiating():
        found = Transformed.apply(call, *tensors)
    else:
        found = torch.ops.contrastile.sweep(list(tensors), *call)
    return found[: _count(spec)]


@torch.library.custom_op("contrastile::sweep", mutates_args=())
def _sweep(tensors: list[Tensor], spec: str, wanted: str) -> list[Tensor]:
    """The outputs, differentiable ones first, then what the backward pass needs."""
    lowered = parse_sweep(spec)
    check_no_tangent(lowered.caller, tensors)
    backend = _backend(lowered)
    _check_positives(lowered, tensors)
    outcomes = forward(backend, lowered, tensors, GIVEN in wanted)
    made = [
        outcome._replace(
            residual=complete(outcome.residual, backend, own.spec, sizes_of(lowered, own, tensors))
        )
        for outcome, own in zip(outcomes, lowered.reductions, strict=True)
    ]
    return in_own_memory(_flat(lowered, made))


@_sweep.register_fake
def _sweep_like(tensors: list[Tensor], spec: str, wanted: str) -> list[Tensor]:
    lowered = parse_sweep(spec)
    check_no_tangent(lowered.caller, tensors)
    return _flat(lowered, _outcomes_like(lowered, tensors, wanted, None))


def _outcomes_like(
    spec: SweepSpec, tensors: Sequence[Tensor], wanted: str, new: shapes.New | None
) -> list[Outcome]:
    needs = ALL if GIVEN in wanted else NOTHING
    return [
        shapes.outcome_like(
            _backend(spec), own.spec, spec.tensors_of(own, tensors), needs, TWO_PASSES, new,
            sizes_of(spec, own, tensors),
        )
        for own in spec.reductions
    ]  # fmt: skip


def _flat(spec: SweepSpec, outcomes: Sequence[Outcome]) -> list[Tensor]:
    found = [o.outputs(own.spec) for o, own in zip(outcomes, spec.reductions, strict=True)]
    residuals = [flatten(outcome.residual)[0] for outcome in outcomes]
    return [*chain(*(own for own, _ in found), *(own for _, own in found), *residuals)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    tensors, *call = inputs
    ctx.call, ctx.count = call, len(tensors)
    ctx.save_for_backward(*tensors, *output[_count(parse_sweep(call[0])) :])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, upstream: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradient of each tensor, by the op."""
    spec, wanted = parse_sweep(ctx.call[0]), ctx.call[1]
    saved, count = ctx.saved_tensors, ctx.count
    grads = upstream[: sum(_counts(spec))]
    given = [grad for grad in grads if grad is not None]
    if not given:
        return [None] * count
    teach_counters()
    call = letters_of([grad is not None for grad in grads]), *ctx.call
    sets = list(saved[:count]), list(saved[count:]), given
    if is_differentiating():
        found = TransformedBackward.apply(
            torch.ops.contrastile.sweep_gradients, call, [len(own) for own in sets], *chain(*sets)
        )
    else:
        found = torch.ops.contrastile.sweep_gradients(*sets, *call)
    there = iter(found)
    return [next(there) if letter == GIVEN else None for letter in wanted]


def _sweep_backward(ctx: Any, upstream: Sequence[Tensor | None]) -> tuple[Any, ...]:
    return _gradients(ctx, upstream), None, None


_sweep.register_autograd(_sweep_backward, setup_context=_save)
_sweep.register_vmap(no_batch)


class Transformed(torch.autograd.Function):
    """The op inside torch.func.grad and vjp, which want a Function of this form in its place."""

    @staticmethod
    def forward(call: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ops.contrastile.sweep(list(tensors), *call))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        call, *tensors = inputs
        _save(ctx, (tensors, *call), output)
        integers = [tensor for tensor in output if not tensor.is_floating_point()]
        ctx.mark_non_differentiable(*integers)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx, upstream)


@torch.library.custom_op("contrastile::sweep_gradients", mutates_args=())
def _sweep_gradients(
    tensors: list[Tensor],
    residual: list[Tensor],
    upstream: list[Tensor],
    given: str,
    spec: str,
    wanted: str,
) -> list[Tensor]:
    """The gradients that are wanted, in the order of their slots."""
    lowered, backend = parse_sweep(spec), _backend(parse_sweep(spec))
    residuals, left = [], list(residual)
    for like in _outcomes_like(lowered, tensors, wanted, shapes.of_no_memory):
        flat, form = flatten(like.residual)
        residuals.append(unflatten(left[: len(flat)], form))
        left = left[len(flat) :]
    there = iter(upstream)
    grads = [next(there) if letter == GIVEN else None for letter in given]
    asked = [letter == GIVEN for letter in wanted]
    pieces = split(grads, _counts(lowered))
    found = backward(backend, lowered, tensors, residuals, asked, pieces)
    return in_own_memory([grad for grad in found if grad is not None])


@_sweep_gradients.register_fake
def _sweep_gradients_like(
    tensors: list[Tensor],
    residual: list[Tensor],
    upstream: list[Tensor],
    given: str,
    spec: str,
    wanted: str,
) -> list[Tensor]:
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor, letter in zip(tensors, wanted, strict=True)
        if letter == GIVEN
    ]


_sweep_gradients.register_autograd(no_second_derivative, setup_context=remember_caller)
_sweep_gradients.register_vmap(no_batch)


def _backend(spec: SweepSpec) -> Backend:
    return named(spec.caller, spec.reductions[0].spec.backend)


def _counts(spec: SweepSpec) -> list[int]:
    """How many outputs of each reduction are differentiable."""
    return [shapes.count_of_gradients(own.spec) for own in spec.reductions]


def _count(spec: SweepSpec) -> int:
    """How many outputs come before what the backward pass needs."""
    return sum(shapes.count_of_outputs(own.spec) for own in spec.reductions)


def _check_positives(spec: SweepSpec, tensors: Sequence[Tensor]) -> None:
    """While this was traced the columns had no values to be checked."""
    for own in spec.reductions:
        columns = own.spec.positives
        sizes = sizes_of(spec, own, tensors)
        if columns != NONE and sizes.device.type == "cpu":
            given = spec.tensors_of(own, tensors)[columns]
            check_index(spec.caller, "positives", given, sizes.n, sizes.m)
