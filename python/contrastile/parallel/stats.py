"""Stats of this rank's rows with the columns of all ranks, as one node of autograd's graph.

Forward, shard by shard of the keys: sums of rows are merged over shards, those of columns over
ranks, as vectors. Backward, shard by shard again, from the merged log-sum-exps: so nothing of a
shard is kept but what its source keeps, and each rank computes its own rows' part of S only, once
for both directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends import choose
from ..engine.backward import gradients_of, plain_upstream
from ..engine.elsewhere import state_of_stats
from ..engine.first_order import BackwardOnly, first_order
from ..engine.flat import flatten, unflatten
from ..engine.forward import plans_of, reduced_of
from ..engine.gaps import gap, with_gaps
from ..engine.gradients import Needs
from ..engine.job import Backend, Job, job_of
from ..engine.memory import empty_scores
from ..engine.row_steps import LN2
from ..engine.state import Upstream, Vectors
from ..ops.stats import ScoreStats
from ..problem import Problem
from ..problem.part import Part
from ..problem.spec import Sizes, Spec
from .merge import Sums, over_ranks, over_shards, over_strips, sums_of
from .request import Request
from .sources import Shard, Source, Trip


class Given(NamedTuple):
    """What may have a gradient: this rank's queries and keys, the scale, all columns' biases."""

    query: Tensor
    key: Tensor
    scale: Tensor | None
    col_bias: Tensor | None


class Call(NamedTuple):
    """One call of a primitive over ranks."""

    request: Request
    source: Source
    # The scale, where it is no tensor.
    number: float

    def jobs(
        self, given: Given, trip: Trip, keeps: bool, kept: Tensor | None = None
    ) -> Iterator[tuple[Part, Shard, Backend, Job]]:
        """Strip by strip and shard by shard a job: a problem of its own. One that ``keeps`` has dot
        products, or room for them.
        """
        scale = self.number if given.scale is None else given.scale
        device = self.source.device(given.query)
        for rows in self.source.strips(given.query):
            query = given.query[rows].to(device)
            for shard in trip.shards():
                part = Part(rows, shard.cols, device)
                problem = self.request.problem(part, query, shard.keys, scale, given.col_bias)
                yield part, shard, *_job(problem, keeps, kept)


def _job(problem: Problem, keeps: bool, kept: Tensor | None) -> tuple[Backend, Job]:
    spec, tensors = problem.lower()
    sizes = Sizes.of(spec, tensors)
    backend = choose(spec, sizes)
    spec = spec.on(backend.name, backend.allows_tf32())
    plans = plans_of(backend, spec, sizes)
    plan = plans.keeping if keeps else plans.plain
    if keeps and kept is None:
        kept = empty_scores(sizes, plan.kept)
    return backend, job_of(backend, spec, sizes, plan, tensors, kept=kept)


class Residual(NamedTuple):
    """What the backward pass needs of the forward pass."""

    sums: Sums


class PeerStats(BackwardOnly):
    """``apply(call, query, key, scale, col_bias)``: rows, own columns, positives, gaps; counts."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        given = Given(*tensors)  # type: ignore[arg-type]
        trip = call.source.trip(given.key, None, None)
        strips: dict[int, list[tuple[slice, Sums]]] = {}
        keeps = call.source.whole and any(ctx.needs_input_grad)
        for part, _, backend, job in call.jobs(given, trip, keeps):
            sums = sums_of(job, reduced_of(job, backend)).on(given.query.device)
            strips.setdefault(part.rows.start, []).append((part.cols, sums))
        spec, dtype = job.spec, job.sizes.dtype
        logs = spec.log_sums
        sums = over_strips([over_shards(strip, logs) for strip in strips.values()], logs)
        if call.source.collectives is not None:
            sums = over_ranks(call.source.collectives, sums, logs)
        ctx.call, ctx.caller, ctx.spec, ctx.dtype = call, spec.caller, spec, dtype
        ctx.set_materialize_grads(False)
        flat, ctx.form = flatten(Residual(sums._replace(row_count=None, col_count=None)))
        ctx.save_for_backward(*tensors, trip.kept(), job.kept, *flat)
        outputs, counts = _outputs(call, spec, sums, dtype)
        ctx.mark_non_differentiable(*[count for count in counts if count is not None])
        return *outputs, *counts

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        # Read once: a checkpoint that is not reentrant gives them once.
        saved = ctx.saved_tensors
        *tensors, keys, dots = saved[:6]
        given = Given(*tensors)
        (sums,) = unflatten(saved[6:], ctx.form)
        query, key, scale, bias = ctx.needs_input_grad[1:]
        call, dtype = ctx.call, ctx.dtype
        room = Room.of(call, given, Needs(query, key, scale, False, bias), dtype)
        trip = call.source.trip(given.key, keys, dtype if key else None)
        arrived = _arrived(call, ctx.spec, upstream, given.key.new_empty(0, dtype=dtype))
        _backward(call, given, sums, arrived, trip, dots, room)
        found = room.query, trip.gradient() if key else None, room.scale, room.col_bias
        return None, *[
            None if gradient is None or own is None else gradient.to(own.dtype)
            for gradient, own in zip(found, given, strict=True)
        ]


def peer_stats(
    request: Request,
    source: Source,
    query: Tensor,
    key: Tensor,
    scale: float | Tensor,
    col_bias: Tensor | None,
) -> ScoreStats:
    """Stats of the rows of ``query``, and of the columns of ``key`` over the rows of all ranks."""
    tensor, number = (scale, 1.0) if isinstance(scale, Tensor) else (None, scale)
    found = list(PeerStats.apply(Call(request, source, number), query, key, tensor, col_bias))
    found.reverse()
    count = len(request.reductions)
    rows = tuple([found.pop() for _ in range(count * request.rows)])
    cols = tuple([found.pop() for _ in range(count * request.columns)])
    positive, row_gap, col_gap, row_rank, col_rank = (found.pop() for _ in range(5))
    return ScoreStats(rows, cols, positive, row_rank, col_rank, row_gap, col_gap)


def _outputs(
    call: Call, spec: Spec, sums: Sums, dtype: torch.dtype
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """What leaves: differentiable, then not; of columns this rank's own."""
    own = call.source.share.own
    unit = LN2 if spec.log_sums else 1.0
    rows = [(vector * unit).to(dtype) for vector in sums.rows]
    cols = [(vector[own] * unit).to(dtype) for vector in sums.cols]
    of_rows, of_cols = call.request.row_counts, call.request.col_counts
    row_gap = col_gap = None
    if of_rows is not None and sums.row_scores is not None:
        row_gap = gap(sums.rows[-1], sums.row_scores, of_rows, dtype)
    if of_cols is not None and sums.col_scores is not None:
        col_gap = gap(sums.cols[-1][own], sums.col_scores[own], of_cols[own], dtype)
    col_count = None if sums.col_count is None else sums.col_count[own]
    return [*rows, *cols, sums.positive, row_gap, col_gap], [sums.row_count, col_count]


class Arrived(NamedTuple):
    """Upstream gradients: of this rank's rows, and of the columns of all ranks."""

    rows: tuple[Tensor | None, ...]
    cols: tuple[Tensor | None, ...]
    positive: Tensor | None
    row_gap: Tensor | None
    col_gap: Tensor | None

    def of_part(self, job: Job, part: Part) -> Upstream:
        """As the kernels take them."""

        def rows(vector: Tensor | None) -> Tensor | None:
            return None if vector is None else part.of_rows(vector)

        def cols(vector: Tensor | None) -> Tensor | None:
            return None if vector is None else part.of_cols(vector)

        none = (None,) * len(job.spec.stats)
        of_rows, of_cols = tuple(map(rows, self.rows)), tuple(map(cols, self.cols))
        upstream = Upstream(of_rows or none, of_cols or none, rows(self.positive))
        if job.spec.gaps:
            upstream = with_gaps(job, upstream, (rows(self.row_gap), cols(self.col_gap)))
        return plain_upstream(job, upstream)


def _arrived(call: Call, spec: Spec, upstream: Sequence[Tensor | None], like: Tensor) -> Arrived:
    """The upstream gradients, those of columns from the ranks that they belong to."""
    left = list(upstream)
    left.reverse()
    count, source = len(spec.stats), call.source
    rows = tuple([left.pop() for _ in range(count * spec.rows)])
    cols = [left.pop() for _ in range(count * spec.columns)]
    positive, row_gap, col_gap = (left.pop() for _ in range(3))
    if call.request.col_counts is not None:
        cols.append(col_gap)
    if source.collectives is not None and cols:
        own = source.share.sizes[source.share.rank]
        # One rank's loss may depend on a stat that another's does not: all send all.
        sent = [like.new_zeros(own) if grad is None else grad.to(like.dtype) for grad in cols]
        everywhere = source.collectives.gather(torch.stack(sent, 1), source.share.sizes)
        cols = list(everywhere.unbind(1))
    if call.request.col_counts is not None:
        col_gap = cols.pop()
    return Arrived(rows, tuple(cols), positive, row_gap, col_gap)


def _backward(
    call: Call,
    given: Given,
    sums: Sums,
    arrived: Arrived,
    trip: Trip,
    dots: Tensor | None,
    room: Room,
) -> None:
    """Gradients, added where there is room for them; those of keys where their shards say."""
    for part, shard, backend, job in call.jobs(given, trip, dots is not None, dots):
        state = state_of_stats(job, *_of_part(sums, part, job.spec.log_sums), backend.has_forms)
        own = gradients_of(job, backend, state, arrived.of_part(job, part), room.needs).ready()
        if room.query is not None:
            _add(room.query[part.rows], own.query, own.factor)
        if room.scale is not None:
            _add(room.scale[part.rows] if room.each else room.scale, own.scale, None)
        if room.col_bias is not None:
            _add(room.col_bias[part.cols], own.col_bias, None)
        if shard.gradient is not None:
            _add(shard.gradient, own.key, own.factor)
        # Not held while the next ones are made.
        del own


class Room(NamedTuple):
    """Where gradients are added up; None where none is wanted."""

    needs: Needs
    query: Tensor | None
    scale: Tensor | None
    col_bias: Tensor | None
    # Whether the scale is one of each row.
    each: bool

    @staticmethod
    def of(call: Call, given: Given, needs: Needs, dtype: torch.dtype) -> Room:
        """Zeros."""

        def exact(like: Tensor | None, wanted: bool) -> Tensor | None:
            if like is None or not wanted:
                return None
            return torch.zeros(like.shape, dtype=torch.float64, device=like.device)

        return Room(
            needs,
            call.source.room(given.query, dtype) if needs.query else None,
            exact(given.scale, needs.scale),
            exact(given.col_bias, needs.col_bias),
            given.scale is not None and given.scale.numel() != 1,
        )


def _of_part(sums: Sums, part: Part, log_sums: bool) -> tuple[Vectors, Vectors, Tensor | None]:
    """Log-sum-exps of its rows and columns, and dot products of its positives."""
    dots = None if sums.dots is None else part.of_rows(sums.dots)
    if not log_sums:
        return (), (), dots
    rows = tuple([part.of_rows(bits) for bits in sums.rows])
    return rows, tuple([part.of_cols(bits) for bits in sums.cols]), dots


def _add(total: Tensor, part: Tensor | None, factor: Tensor | None) -> None:
    assert part is not None, "a gradient that is wanted is made"
    part = part.to(total.device).view(total.shape)
    if factor is None:
        total.add_(part)
    else:
        total.addcmul_(part, factor.to(total))
