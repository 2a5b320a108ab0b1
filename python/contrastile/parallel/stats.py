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
from ..engine.row_steps import LN2
from ..engine.state import Upstream
from ..ops.stats import ScoreStats
from ..problem.spec import Sizes, Spec
from .merge import Sums, over_ranks, over_shards, sums_of
from .request import Request
from .sources import Shard, Source


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

    def job(self, shard: Shard, given: Given) -> tuple[Backend, Job]:
        """The job of one shard: a problem of its own."""
        scale = self.number if given.scale is None else given.scale
        problem = self.request.problem(shard.cols, given.query, shard.keys, scale, given.col_bias)
        spec, tensors = problem.lower()
        sizes = Sizes.of(spec, tensors)
        backend = choose(spec, sizes)
        spec = spec.on(backend.name, backend.allows_tf32())
        plan = plans_of(backend, spec, sizes).plain
        return backend, job_of(backend, spec, sizes, plan, tensors)


class Residual(NamedTuple):
    """What the backward pass needs of the forward pass."""

    sums: Sums


class PeerStats(BackwardOnly):
    """``apply(call, query, key, scale, col_bias)``: rows, own columns, positives, gaps; counts."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        given = Given(*tensors)  # type: ignore[arg-type]
        trip = call.source.trip(given.key, None, None)
        parts = []
        for shard in trip.shards():
            backend, job = call.job(shard, given)
            parts.append((shard.cols, sums_of(job, reduced_of(job, backend))))
        spec, dtype = job.spec, job.sizes.dtype
        sums = over_shards(parts, spec.log_sums)
        sums = over_ranks(call.source.collectives, sums, spec.log_sums)
        ctx.call, ctx.caller, ctx.spec, ctx.dtype = call, spec.caller, spec, dtype
        ctx.set_materialize_grads(False)
        flat, ctx.form = flatten(Residual(sums._replace(row_count=None, col_count=None)))
        ctx.save_for_backward(*tensors, trip.kept(), *flat)
        outputs, counts = _outputs(call, spec, sums, dtype)
        ctx.mark_non_differentiable(*[count for count in counts if count is not None])
        return *outputs, *counts

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, kept = ctx.saved_tensors[:5]
        given = Given(*tensors)
        (sums,) = unflatten(ctx.saved_tensors[5:], ctx.form)
        query, key, scale, bias = ctx.needs_input_grad[1:]
        needs = Needs(query, key, scale, False, bias)
        trip = ctx.call.source.trip(given.key, kept, ctx.dtype if key else None)
        arrived = _arrived(ctx.call, ctx.spec, upstream, given.key.new_empty(0, dtype=ctx.dtype))
        found = _backward(ctx.call, given, sums, arrived, trip.shards(), needs)
        of_key = _as(trip.gradient(), given.key) if key else None
        of_query, of_scale, of_bias = (
            _as(gradient, own)
            for gradient, own in zip(found, (given.query, given.scale, given.col_bias), strict=True)
        )
        return None, of_query, of_key, of_scale, of_bias


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

    def of_shard(self, job: Job, cols: slice) -> Upstream:
        """As the kernels take them."""

        def part(vector: Tensor | None) -> Tensor | None:
            return None if vector is None else vector[cols]

        own = tuple([part(vector) for vector in self.cols])
        none = (None,) * len(job.spec.stats)
        upstream = Upstream(self.rows or none, own or none, self.positive)
        if job.spec.gaps:
            upstream = with_gaps(job, upstream, (self.row_gap, part(self.col_gap)))
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
    own = source.share.sizes[source.collectives.rank]
    # One rank's loss may depend on a stat that another's does not: all send all.
    sent = [like.new_zeros(own) if grad is None else grad.to(like.dtype) for grad in cols]
    if sent:
        everywhere = source.collectives.gather(torch.stack(sent, 1), source.share.sizes)
        cols = list(everywhere.unbind(1))
    if call.request.col_counts is not None:
        col_gap = cols.pop()
    return Arrived(rows, tuple(cols), positive, row_gap, col_gap)


def _backward(
    call: Call, given: Given, sums: Sums, arrived: Arrived, shards: Iterator[Shard], needs: Needs
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of queries, scale and biases; those of keys are added where their shards say."""
    query = scale = bias = None
    for shard in shards:
        backend, job = call.job(shard, given)
        logs = job.spec.log_sums
        rows = sums.rows if logs else ()
        cols = tuple([bits[shard.cols] for bits in sums.cols]) if logs else ()
        state = state_of_stats(job, rows, cols, sums.dots, backend.has_forms)
        upstream = arrived.of_shard(job, shard.cols)
        own = gradients_of(job, backend, state, upstream, needs).ready()
        query = _added(query, own.query, own.factor)
        scale = _added(scale, own.scale, None)
        if shard.gradient is not None:
            _added(shard.gradient, own.key, own.factor)
        if own.col_bias is not None and given.col_bias is not None:
            bias = torch.zeros_like(given.col_bias, dtype=torch.float64) if bias is None else bias
            bias[shard.cols] = own.col_bias
    return query, scale, bias


def _added(total: Tensor | None, part: Tensor | None, factor: Tensor | None) -> Tensor | None:
    if part is None:
        return total
    part = part if factor is None else part * factor
    return part if total is None else total.add_(part)


def _as(gradient: Tensor | None, like: Tensor | None) -> Tensor | None:
    """A gradient in the dtype and shape of what it is of."""
    if gradient is None or like is None:
        return None
    return gradient.to(like.dtype).view(like.shape)
