"""The engine as one node of autograd's graph; the graph above it is ordinary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..problem.spec import NONE, Sizes, Spec
from .backward import backward
from .first_order import BackwardOnly, first_order
from .flat import flatten, unflatten
from .forward import forward, mode_of
from .gradients import Needs, Values
from .job import Backend, Numbers

Grads = tuple[Tensor | None, ...]


class ReduceScores(BackwardOnly):
    """``apply(backend, spec, sizes, *tensors)``: the outputs of :class:`~.forward.Outcome`."""

    @staticmethod
    def forward(
        ctx: Any, backend: Backend, spec: Spec, sizes: Sizes, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        needs = needs_of(spec, ctx.needs_input_grad[3:])
        mode = mode_of(backend, spec, sizes, needs)
        numbers = Numbers.of(spec, sizes, tensors, backend)
        outcome = forward(backend, spec, sizes, tensors, needs, mode, numbers)
        outputs, others = outcome.outputs(spec)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*others)
        ctx.caller = spec.caller
        if needs.any:
            ctx.call = backend, spec, sizes, needs, mode, numbers
            # Saved, not just remembered: autograd then frees it, moves it, and notices changes.
            flat, ctx.form = flatten(outcome.residual)
            ctx.save_for_backward(*tensors, *flat)
        return (*outputs, *others)

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor | None) -> Grads:
        if all([grad is None for grad in upstream]):
            return (None,) * len(ctx.needs_input_grad)
        backend, spec, sizes, needs, mode, numbers = ctx.call
        count = len(ctx.needs_input_grad) - 3
        saved = ctx.saved_tensors
        tensors, residual = saved[:count], unflatten(saved[count:], ctx.form)
        values = backward(backend, spec, sizes, tensors, residual, needs, mode, upstream, numbers)
        return (None, None, None, *in_slots(spec, values, count))


def needs_of(spec: Spec, wanted: Sequence[bool]) -> Needs:
    """Which gradients are wanted, from whether each tensor of a problem wants its own."""
    return Needs(*[slot != NONE and bool(wanted[slot]) for slot in spec.differentiable])


def in_slots(spec: Spec, values: Values, count: int) -> list[Tensor | None]:
    """The gradients where the tensors stand that they are of."""
    grads: list[Tensor | None] = [None] * count
    for slot, value in zip(spec.differentiable, values, strict=True):
        if slot != NONE:
            grads[slot] = value
    return grads
