"""Gradients in the forward pass, for losses of one direction: three products instead of four.

A row's weight in the gradient is known as soon as its strip is reduced, as the row's loss depends
on its own stats only. So a strip's scores are used while they are still there, and the backward
pass only multiplies by one number, the gradient of the loss. Sums of a function need not even
wait for their strip: a kernel that can makes sums and weights from one look at the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem.spec import NONE, Sizes, Spec
from .gradients import Gradients, Needs
from .job import Backend, Job
from .plan import Plan, Strip, scores_in
from .positives import positive_scores
from .rules import Seen, slopes_of
from .spans import part
from .state import Reduced, Upstream

# Below this the product of a strip with the queries is too thin for a GEMM.
SHORTEST_STRIP = 128


def is_one_way(spec: Spec) -> bool:
    """Whether a row's weights depend on its own stats, and on the gradient of one number."""
    rule = spec.rule
    one_number = rule is not None and rule.reduction != "none" and not rule.skip
    return one_number and spec.positives != NONE and not spec.both_sides and not spec.gaps


def strip_height(spec: Spec, sizes: Sizes, plan: Plan) -> int:
    """Rows of which all scores fit the workspace, beside a block that weights are formed in.

    0 where the problem is none of one direction with a loss that is one number, or strips would be
    too thin.
    """
    if not is_one_way(spec) or not plan.strips:
        return 0
    height, width = plan.strips[0][0].shape
    rows = scores_in(spec, sizes.dtype) // (sizes.m + width)
    return min(rows, height) if rows >= min(SHORTEST_STRIP, sizes.n) else 0


def gradients_at_once(job: Job, backend: Backend, needs: Needs) -> tuple[Reduced, Gradients]:
    """The stats of all rows, and gradients for a gradient of the loss of 1."""
    if not job.spec.log_sums:
        both = backend.reducing_weigher(job, needs.scale)
        if both is not None:
            gradients = Gradients(job, needs, unit=both.unit)
            for strip in job.plan.strips:
                gradients.add_strip(both, strip)
            gradients.finish(both.products())
            return both.settle(), gradients
    return _strip_by_strip(job, backend, needs)


def _strip_by_strip(job: Job, backend: Backend, needs: Needs) -> tuple[Reduced, Gradients]:
    gradients = Gradients(job, needs)
    reducer = backend.reducer(job)
    products: Tensor | None = None
    for strip in job.plan.strips:
        rows = strip[0].rows
        for block in strip:
            reducer.reduce(block)
        reduced = reducer.settle(rows)
        upstream = _of_strip(job, reduced, strip)
        weigher = backend.weigher(job, reduced.state, upstream, needs.scale, rows)
        gradients.add_strip(weigher, strip)
        more = weigher.products()
        products = more if products is None or more is None else products.add_(more)
    gradients.finish(products)
    return reducer.settle(), gradients


def _of_strip(job: Job, reduced: Reduced, strip: Strip) -> Upstream:
    """The upstream gradients of a strip's stats, in vectors of full length for a weigher.

    It never reads other rows: their memory is not filled.
    """
    rows, rule = strip[0].rows, job.spec.rule
    assert rule is not None and reduced.state.positive is not None
    positive = positive_scores(job, reduced.state.positive, rows)
    assert positive is not None
    seen = Seen.of(job, (reduced.rows, reduced.cols), positive, rows)
    weights = job.tensor(rule.weights)
    own = None if weights is None else part(weights, rows)
    slopes = slopes_of(rule, seen, own, job.sizes.n)

    def whole(vector: Tensor | None) -> Tensor | None:
        if vector is None:
            return None
        out = torch.empty(job.sizes.n, dtype=job.sizes.dtype, device=job.sizes.device)
        out[rows] = vector
        return out

    return Upstream(tuple([whole(vector) for vector in slopes.rows]), (), whole(slopes.positive))
