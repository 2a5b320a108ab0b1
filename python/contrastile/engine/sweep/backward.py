"""The backward pass of a sweep: weights of all reductions, and gradients of what planes are of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...problem.sweep_spec import SweepSpec
from ..backward import upstream_of
from ..forward import Residual
from ..job import Backend, Job, Weigher
from .call import Call, buffers_of
from .gradients import Gradients, Needs, Weighed
from .values import PlaneValues


def backward(
    backend: Backend,
    spec: SweepSpec,
    tensors: Sequence[Tensor],
    residuals: Sequence[Residual],
    wanted: Sequence[bool],
    upstream: Sequence[Sequence[Tensor | None]],
) -> list[Tensor | None]:
    """The gradient of each tensor that is ``wanted``; ``upstream``: of each reduction's outputs."""
    call = Call.of(backend, spec, tensors, buffers_of(spec, backward=True))
    math = backend.block_math(call.sizes)
    values = PlaneValues(spec, call.sizes, tensors, call.plan, math)
    needs = Needs.of(spec, wanted)
    gradients = Gradients(call, values, math, needs)
    scratch = torch.empty(call.plan.largest, dtype=call.sizes.dtype, device=call.sizes.device)
    active = []
    for reduction, residual, grads in zip(spec.reductions, residuals, upstream, strict=True):
        if needs.of_reduction(reduction) and any(grad is not None for grad in grads):
            job = call.job(reduction, values)._replace(scratch=scratch)
            weigher = _weigher(backend, job, residual, grads, needs.scale(reduction))
            active.append(Weighed(reduction, job, weigher))
    if active and call.plan.strips:
        for block in call.plan.blocks():
            values.fill(block)
            gradients.add_block(block, active)
    return gradients.finish(active)


def _weigher(
    backend: Backend,
    job: Job,
    residual: Residual,
    grads: Sequence[Tensor | None],
    products: bool,
) -> Weigher:
    assert residual.state is not None
    upstream = upstream_of(job, backend, residual, grads)
    return backend.weigher(job, residual.state, upstream, products)
