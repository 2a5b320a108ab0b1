"""The backward pass: from gradients of stats or of the loss to those of embeddings and scale."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..problem.row_loss import SEVERAL
from ..problem.spec import NONE, Sizes, Spec
from .forward import Mode, Residual, two_pass_plan
from .gaps import with_gaps
from .gradients import Gradients, Needs, Values
from .job import Backend, Job, Numbers, Weigher, job_of
from .rules import Slopes, scaled
from .state import State, Upstream


def backward(
    backend: Backend,
    spec: Spec,
    sizes: Sizes,
    tensors: Sequence[Tensor],
    residual: Residual,
    needs: Needs,
    mode: Mode,
    upstream: Sequence[Tensor | None],
    numbers: Numbers | None = None,
) -> Values:
    """Gradients of the embeddings, the scale and the biases, where ``needs`` asks for them.

    ``upstream`` are the gradients of the differentiable outputs, in their order.
    """
    if residual.ready is not None:
        return residual.ready.times(upstream[0], spec, sizes, tensors)
    state = residual.state
    assert state is not None
    plan = two_pass_plan(backend, spec, sizes, mode)
    job = job_of(backend, spec, sizes, plan, tensors, numbers, state.kept)
    if state.arena is not None:
        assert mode.block is not None and upstream[0] is not None
        weigher = mode.block.weigher(job, state.arena, upstream[0], needs.scale)
        return weighed(job, weigher, needs).values(tensors)
    given = upstream_of(job, backend, residual, upstream)
    return gradients_of(job, backend, state, given, needs).values(tensors)


def gradients_of(
    job: Job, backend: Backend, state: State, upstream: Upstream, needs: Needs
) -> Gradients:
    """The gradients for those of the stats."""
    if job.plan.strips and upstream.of_stats:
        return weighed(job, backend.weigher(job, state, upstream, needs.scale), needs)
    gradients = Gradients(job, needs)
    if upstream.positive is not None:
        gradients.add_positives(upstream.positive, state.positive)
    gradients.finish(None)
    return gradients


def weighed(job: Job, weigher: Weigher, needs: Needs) -> Gradients:
    """The gradients that the weights of all blocks come to."""
    gradients = Gradients(job, needs, overwrite=job.plan.single, unit=weigher.unit)
    for strip in job.plan.strips:
        gradients.add_strip(weigher, strip)
    gradients.finish(weigher.products())
    return gradients


def upstream_of(
    job: Job, backend: Backend, residual: Residual, upstream: Sequence[Tensor | None]
) -> Upstream:
    """The gradients of the stats, as kernels take them."""
    spec = job.spec
    if residual.slopes is not None:
        slopes, grad = residual.slopes, upstream[0]
        assert grad is not None
        if backend.scales_upstream and _is_one_factor(job, grad):
            own = Upstream(slopes.rows, slopes.cols, slopes.positive, of_loss=grad)
            return plain_upstream(job, own)
        slopes = _of_loss(job, backend, slopes, grad)
        found = Upstream(*slopes)
        if spec.triangle:
            found = found._replace(col_line=slopes.row_line)
        return plain_upstream(job, found)
    given = list(upstream)
    given.reverse()
    count = len(spec.stats)
    rows = tuple([given.pop() for _ in range(count)]) if spec.rows else (None,) * count
    cols = tuple([given.pop() for _ in range(count)]) if spec.columns else (None,) * count
    positive = None if spec.positives == NONE else given.pop()
    of_rows = None if spec.row_counts == NONE else given.pop()
    of_cols = None if spec.col_counts == NONE else given.pop()
    found = Upstream(rows, cols, positive)
    return plain_upstream(job, with_gaps(job, found, (of_rows, of_cols)) if spec.gaps else found)


def _is_one_factor(job: Job, grad: Tensor) -> bool:
    """Whether a weigher can multiply all slopes by the gradient of the loss: by one number, without
    gaps, whose gradients are sums of slopes.
    """
    return grad.dim() == 0 and bool(job.plan.strips) and not job.spec.gaps


def _of_loss(job: Job, backend: Backend, slopes: Slopes, grad: Tensor) -> Slopes:
    """The slopes times the gradient of the loss."""
    # 1 where backward() is called on the loss itself.
    if grad.dim() == 0 and backend.reads_scale and float(grad) == 1.0:
        return slopes
    spec = job.spec
    if grad.dim() and spec.rule is not None and spec.rule.name == SEVERAL:
        # The losses of rows stand before those of columns.
        rows = job.sizes.n if spec.rows else 0
        return scaled(slopes, grad[:rows], grad[rows:])
    return scaled(slopes, grad, grad)


def plain_upstream(job: Job, upstream: Upstream) -> Upstream:
    """As compiled code reads them: contiguous, of the compute dtype, their numbers in memory."""
    count, dtype = len(job.spec.stats), job.sizes.dtype

    def plain(vector: Tensor | None) -> Tensor | None:
        if vector is None or (
            vector.dtype == dtype and vector.is_contiguous() and not vector.is_neg()
        ):
            return vector
        return vector.to(dtype).contiguous().resolve_neg()

    rows, cols = ([plain(vector) for vector in vectors] for vectors in upstream[:2])
    absent: list[Tensor | None] = [None] * count
    return Upstream(
        tuple(rows or absent),
        tuple(cols or absent),
        *(plain(vector) for vector in upstream[2:]),
    )
