"""The forward pass of a sweep: stats of all reductions from one walk over blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...problem.sweep_spec import SweepSpec
from ..forward import Outcome, Residual, nothing, outcome_of
from ..job import Backend
from .call import Call, buffers_of
from .values import PlaneValues


def forward(
    backend: Backend, spec: SweepSpec, tensors: Sequence[Tensor], wanted: bool
) -> list[Outcome]:
    """What each reduction comes to; with what the backward pass needs, if that is wanted."""
    call = Call.of(backend, spec, tensors, buffers_of(spec, backward=False))
    values = PlaneValues(spec, call.sizes, tensors, call.plan, backend.block_math(call.sizes))
    jobs = [call.job(reduction, values) for reduction in spec.reductions]
    if call.plan.strips:
        reducers = [backend.reducer(job) for job in jobs]
        for block in call.plan.blocks():
            values.fill(block)
            for reducer in reducers:
                reducer.reduce(block)
        found = [reducer.settle() for reducer in reducers]
    else:
        found = [nothing(job, backend) for job in jobs]
    outcomes = [outcome_of(job, own, None) for job, own in zip(jobs, found, strict=True)]
    if wanted:
        return outcomes
    return [outcome._replace(residual=Residual()) for outcome in outcomes]
