"""The forward pass: from a lowered problem and its tensors to stats, and what backward needs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..problem.row_loss import SEVERAL
from ..problem.spec import NONE, Sizes, Spec
from . import several
from .gaps import gaps
from .gradients import Gradients, Needs, Ready
from .job import Backend, BlockLoss, Job, Numbers, job_of
from .memory import empty_scores
from .one_pass import gradients_at_once, is_one_way, strip_height
from .plan import Plan, all_fit, keeping_scores, plan_of, strips_of
from .positives import positive_scores
from .rules import Seen, Slopes, evaluated
from .state import Reduced, State, Vectors


class Mode(NamedTuple):
    """What is decided before the forward pass, so that a trace can decide it too.

    Attributes:
        kept: how many dot products are kept for the backward pass.
        at_once: whether gradients are made in the forward pass.
        block: the loss of a single block in one call a pass; never in a trace.
    """

    kept: int
    at_once: bool
    block: BlockLoss | None = None


class Residual(NamedTuple):
    """What the backward pass needs besides the tensors of the problem."""

    state: State | None = None
    # Of a row loss: gradients of the stats for a gradient of 1.
    slopes: Slopes | None = None
    # Gradients for a gradient of 1, made in the forward pass.
    ready: Ready | None = None


class Outcome(NamedTuple):
    """What one call of the engine comes to.

    Attributes:
        loss: of a row loss.
        rows: the value of each row, one vector a stat.
        cols: the value of each column.
        positive: scores of the positives.
        gaps: of rows and of columns.
        counts: of rows and of columns.
        residual: for the backward pass.
    """

    loss: Tensor | None
    rows: Vectors
    cols: Vectors
    positive: Tensor | None
    gaps: tuple[Tensor | None, Tensor | None]
    counts: tuple[Tensor | None, Tensor | None]
    residual: Residual

    def outputs(self, spec: Spec) -> tuple[list[Tensor], list[Tensor]]:
        """What leaves: differentiable, then not."""
        stats = [*self.rows, *self.cols, self.positive, *self.gaps]
        if spec.rule is None:
            return _there(stats), _there(self.counts)
        return _there([self.loss]), _there([*stats, *self.counts] if spec.rule.shows else [])


def _there(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


class Plans(NamedTuple):
    """The plans of a problem: as it is, with dot products kept, in strips of one direction; and
    what takes their place, where one block is all there is and nothing but its loss is asked for.
    """

    plain: Plan
    keeping: Plan
    strips: Plan | None
    block: BlockLoss | None


@lru_cache(maxsize=512)
def plans_of(backend: Backend, spec: Spec, sizes: Sizes) -> Plans:
    """The plans of ``backend``."""
    plain = plan_of(spec, sizes, backend.tile(spec, sizes))
    keeping = keeping_scores(spec, sizes, plain, backend.keeping(spec, sizes))
    strips = None
    height = strip_height(spec, sizes, plain)
    if height and backend.settles_strips and not all_fit(spec, sizes, plain):
        strips = strips_of(sizes, height, plain.strips[0][0].shape[1])
    block = backend.block_loss(spec, sizes) if plain.single and is_loss_alone(spec) else None
    return Plans(plain, keeping, strips, block)


def is_loss_alone(spec: Spec) -> bool:
    """Whether a loss of rows is all that is asked for."""
    return spec.rule is not None and not spec.rule.shows and not spec.ranks


def mode_of(backend: Backend, spec: Spec, sizes: Sizes, needs: Needs) -> Mode:
    """How a call is best computed."""
    plans = plans_of(backend, spec, sizes)
    if not needs.any:
        return Mode(0, False, plans.block)
    if plans.strips is not None or weighs_at_once(backend, spec):
        return Mode(0, True)
    return Mode(plans.keeping.kept, False, plans.block)


def weighs_at_once(backend: Backend, spec: Spec) -> bool:
    """Whether sums and weights come out of one look at the scores, whatever the sizes."""
    return backend.weighs_at_once and is_one_way(spec) and not (spec.log_sums or spec.ranks)


def two_pass_plan(backend: Backend, spec: Spec, sizes: Sizes, mode: Mode) -> Plan:
    """The plan of a forward pass, and of the backward pass that follows it.

    A trace decides by sizes alone how much is kept, not by blocks. Where that is another number
    than the plan's own, the dot products of as many blocks are kept as it has room for.
    """
    plans = plans_of(backend, spec, sizes)
    plan = plans.keeping if mode.kept else plans.plain
    if plan.kept == mode.kept:
        return plan
    keeping = backend.keeping(spec, sizes)
    return keeping_scores(spec, sizes, plans.plain, keeping, most=mode.kept)


def forward(
    backend: Backend,
    spec: Spec,
    sizes: Sizes,
    tensors: Sequence[Tensor],
    needs: Needs,
    mode: Mode,
    numbers: Numbers | None = None,
) -> Outcome:
    """Stats or the loss, and what the backward pass needs."""
    plans = plans_of(backend, spec, sizes)
    if mode.at_once and plans.plain.strips:
        plan = plans.plain if plans.strips is None else plans.strips
        room = empty_scores(sizes, plan.kept)
        job = job_of(backend, spec, sizes, plan, tensors, numbers, room)
        return outcome_of(job, *gradients_at_once(job, backend, needs))
    plan = two_pass_plan(backend, spec, sizes, mode)
    room = empty_scores(sizes, mode.kept)
    job = job_of(backend, spec, sizes, plan, tensors, numbers, room)
    if mode.block is not None and mode.block.reads(tensors):
        loss, arena = mode.block.reduce(job)
        state = State(arena=arena, kept=job.kept)
        return Outcome(loss, (), (), None, (None, None), (None, None), Residual(state))
    reduced = reduced_of(job, backend)
    if job.kept is not None:
        reduced = reduced._replace(state=reduced.state._replace(kept=job.kept))
    outcome = outcome_of(job, reduced, None)
    return outcome if needs.any else outcome._replace(residual=Residual())


def reduced_of(job: Job, backend: Backend) -> Reduced:
    """The stats of all blocks."""
    if not job.plan.strips:
        return nothing(job, backend)
    reducer = backend.reducer(job)
    for strip in job.plan.strips:
        for block in strip:
            reducer.reduce(block)
    return reducer.settle()


def outcome_of(job: Job, reduced: Reduced, ready: Gradients | None) -> Outcome:
    spec, state = job.spec, reduced.state
    of_gaps = gaps(job, reduced) if spec.gaps else (None, None)
    counts = reduced.row_count, reduced.col_count
    loss, slopes = reduced.loss, None
    positive = None
    if loss is None or (spec.rule is not None and spec.rule.shows):
        positive = positive_scores(job, state.positive)
    if loss is not None:
        slopes = None if reduced.slopes is None else Slopes(*reduced.slopes[:3])
    elif spec.rule is not None and spec.rule.name == SEVERAL:
        loss, slopes = several.evaluated(job, reduced, wanted=ready is None)
    elif spec.rule is not None:
        assert positive is not None
        seen = Seen.of(job, (reduced.rows, reduced.cols), positive)
        loss, slopes = evaluated(job, seen, wanted=ready is None)
    residual = Residual(state, slopes) if ready is None else Residual(ready=ready.ready())
    return Outcome(loss, reduced.rows, reduced.cols, positive, of_gaps, counts, residual)


def nothing(job: Job, backend: Backend) -> Reduced:
    """The stats of no pairs at all: without rows, or without columns."""
    spec, sizes = job.spec, job.sizes
    device, dtype, double = sizes.device, sizes.dtype, torch.float64

    def of_sides(value: float, dtype: torch.dtype, count: int) -> tuple[Vectors, Vectors]:
        sides = (spec.rows, sizes.n), (spec.columns, sizes.m)
        rows, cols = (
            tuple([torch.full((length,), value, dtype=dtype, device=device) for _ in range(count)])
            if wanted
            else ()
            for wanted, length in sides
        )
        return rows, cols

    stats, sums = len(spec.stats), len(spec.stats) if spec.log_sums else 0
    empty = -torch.inf if spec.log_sums else 0.0
    tops = of_sides(0.0, dtype, sums if backend.has_forms else 0)
    shifts = torch.zeros(stats, dtype=dtype if backend.has_forms else double, device=device)
    flag = torch.zeros(1, dtype=torch.int32, device=device) if backend.has_forms else None
    positive = None if spec.positives == NONE else job.scores_of_none()
    state = State(*of_sides(-torch.inf, double, sums), *tops, shifts, flag, positive)
    rows, cols = of_sides(empty, dtype, stats)
    row_count, col_count, row_scores, col_scores = (
        own[0] if own else None
        for own in (
            *of_sides(0, torch.int64, int(spec.ranks)),
            *of_sides(0.0, double, int(spec.gaps)),
        )
    )
    return Reduced(rows, cols, row_count, col_count, row_scores, col_scores, state)
