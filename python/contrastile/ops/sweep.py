"""Several problems over shared planes, from one walk over the scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import profiler

from ..backends import choose_for_sweep
from ..engine.job import Backend
from ..engine.sweep.node import SweepPlanes
from ..problem.plain import is_traced
from ..problem.planes import AnyPlane
from ..problem.storage import gated
from ..problem.sweep import Reduction, Sweep
from ..problem.sweep_spec import SweepSpec, sizes_of
from . import library, shapes, sweep_library
from .stats import ScoreStats, stats_of

NAME = "sweep"


@gated
def sweep(
    planes: Sequence[AnyPlane],
    reductions: Sequence[Reduction],
    *,
    backend: str = "auto",
    workspace: int | None = None,
    caller: str = NAME,
) -> tuple[ScoreStats, ...]:
    r"""Stats of several planes, none of which is ever stored.

    .. math:: V^p_{ij} = r_i\, c_j \langle q_i, k_j \rangle \quad\text{or}\quad
              V^p_{ij} = f(V^a_{ij}, V^b_{ij}, \dots; r_i, c_j)

    and of each :class:`~contrastile.problem.Reduction` the log-sum-exps or pair sums of
    :math:`S = scale\, V^p + a_i + b_j`, all from one walk over blocks: planes of prefixes of the
    same embeddings share one product along the features; a predicate may compare one plane's
    numbers with thresholds (:class:`~contrastile.problem.Above`) to say which pairs of another
    count. Differentiable once in all embeddings, factors, scales and biases.

    Args:
        planes: :class:`~contrastile.problem.Plane` and :class:`~contrastile.problem.Mapped`, all
            of the same rows and columns. A plane whose tensors need no gradient gets none.
        reductions: what is reduced, each of the plane whose number it names.
        backend: "auto", "cpu", "triton" or "reference".
        workspace: bytes that all blocks together may take at any time; default 256 MiB,
            on a GPU a 64th of its memory if that is more.
        caller: the function that errors name, for one whose tensors have passed
            :func:`~contrastile.problem.storage.check_storage`.

    Returns:
        one :class:`~contrastile.ops.ScoreStats` a reduction, in fp32, or fp64 if any embedding is.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).
        TypeError: an argument of the wrong type.

    >>> import torch
    >>> from contrastile.ops import sweep
    >>> from contrastile.problem import Channel, Plane, Reduction
    >>> x = torch.eye(4)
    >>> halves = [Plane(x, features=(0, 2)), Plane(x, features=(0, 4))]
    >>> first, both = sweep(halves, [Reduction(p, channels=[Channel()]) for p in (0, 1)])
    >>> first.rows[0]
    tensor([1.7437, 1.7437, 1.3863, 1.3863])
    """
    asked = Sweep.of(caller, planes, reductions, backend, workspace)
    spec, tensors = asked.lower()
    chosen = choose_for_sweep(spec, [sizes_of(spec, own, tensors) for own in spec.reductions])
    spec = spec.on(chosen.name, chosen.allows_tf32())
    if not torch.is_grad_enabled():
        # autograd.Function asks the tensors alone which gradients are wanted.
        tensors = [tensor.detach() for tensor in tensors]
    return _named(spec, _run(chosen, spec, tensors))


def _run(backend: Backend, spec: SweepSpec, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    sizes = sizes_of(spec, spec.reductions[0], tensors)
    if is_traced() or library.is_watched(sizes):
        return sweep_library.sweep(spec, tensors)
    if profiler._is_profiler_enabled:
        with profiler.record_function(f"contrastile::{spec.caller}"):
            return SweepPlanes.apply(backend, spec, *tensors)
    return SweepPlanes.apply(backend, spec, *tensors)


def _named(spec: SweepSpec, found: Sequence[Tensor]) -> tuple[ScoreStats, ...]:
    """The outputs of each reduction by name; all with gradients stand before all without."""
    specs = [reduction.spec for reduction in spec.reductions]
    counts = [shapes.count_of_gradients(own) for own in specs]
    at, others_at = 0, sum(counts)
    named = []
    for own, count in zip(specs, counts, strict=True):
        others = shapes.count_of_outputs(own) - count
        outputs = [*found[at : at + count], *found[others_at : others_at + others]]
        named.append(stats_of(own, outputs))
        at, others_at = at + count, others_at + others
    return tuple(named)
