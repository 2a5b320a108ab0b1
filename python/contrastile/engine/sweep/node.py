"""A sweep as one node of autograd's graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...problem.sweep_spec import SweepSpec
from ..first_order import BackwardOnly, first_order
from ..flat import flatten, unflatten
from ..job import Backend
from .backward import backward
from .forward import forward

Grads = tuple[Tensor | None, ...]


class SweepPlanes(BackwardOnly):
    """``apply(backend, spec, *tensors)``: outputs of each reduction, one after the other, as
    :meth:`~contrastile.engine.forward.Outcome.outputs` has them: those with gradients first.
    """

    @staticmethod
    def forward(
        ctx: Any, backend: Backend, spec: SweepSpec, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        wanted = ctx.needs_input_grad[2:]
        outcomes = forward(backend, spec, tensors, any(wanted))
        found = [o.outputs(r.spec) for o, r in zip(outcomes, spec.reductions, strict=True)]
        outputs = [tensor for own, _ in found for tensor in own]
        others = [tensor for _, own in found for tensor in own]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*others)
        ctx.caller = spec.caller
        if any(wanted):
            ctx.call = backend, spec, [len(own) for own, _ in found]
            kept, ctx.forms = [], []
            for outcome in outcomes:
                flat, form = flatten(outcome.residual)
                ctx.forms.append((len(flat), form))
                kept += flat
            ctx.save_for_backward(*tensors, *kept)
        return (*outputs, *others)

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor | None) -> Grads:
        if all(grad is None for grad in upstream):
            return (None,) * len(ctx.needs_input_grad)
        backend, spec, counts = ctx.call
        wanted = ctx.needs_input_grad[2:]
        saved = ctx.saved_tensors
        tensors, left = saved[: len(wanted)], list(saved[len(wanted) :])
        residuals = []
        for count, form in ctx.forms:
            residuals.append(unflatten(left[:count], form))
            left = left[count:]
        grads = split(upstream, counts)
        return (None, None, *backward(backend, spec, tensors, residuals, wanted, grads))


def split(values: Sequence[Tensor | None], counts: Sequence[int]) -> list[list[Tensor | None]]:
    """Consecutive pieces of so many."""
    pieces, at = [], 0
    for count in counts:
        pieces.append(list(values[at : at + count]))
        at += count
    return pieces
