"""What the registered ops return, without computing it: for traces, whose sizes may be symbols."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..engine.forward import Mode, Outcome, Residual, weighs_at_once
from ..engine.gradients import Needs, Ready
from ..engine.job import Backend
from ..engine.one_pass import is_one_way
from ..engine.plan import scores_in
from ..engine.rules import Slopes
from ..engine.state import State, Vectors
from ..problem.spec import NONE, Sizes, Spec

New = Callable[[tuple[int, ...], torch.dtype], Tensor]
# Ops take switches as one word of a letter each: torch.jit.trace knows no lists of them.
GIVEN = "+"


def mode_of(backend: Backend, spec: Spec, sizes: Sizes, needs: Needs) -> Mode:
    """As :func:`~contrastile.engine.forward.mode_of`, by products of sizes alone: a loop over
    blocks would make a graph of one size.
    """
    if not needs.any:
        return Mode(0, False)
    if weighs_at_once(backend, spec):
        return Mode(0, True)
    tile, keeping = backend.tile(spec, sizes), backend.keeping(spec, sizes)
    scores, room = sizes.n * sizes.m, scores_in(spec, sizes.dtype)
    if scores > room - tile.rows * tile.cols:
        return Mode(0, is_one_way(spec) and backend.settles_strips)
    if spec.triangle and sizes.n > min(tile.rows, tile.cols):
        return Mode(0, False)
    if sizes.d >= keeping.from_size or scores <= keeping.cached:
        return Mode(scores, False)
    return Mode(0, False)


def count_of_outputs(spec: Spec) -> int:
    """How many outputs of the engine come before what the backward pass needs."""
    outputs, others = _outcome(spec, _of_nothing(), of_no_memory).outputs(spec)
    return len(outputs) + len(others)


def count_of_gradients(spec: Spec) -> int:
    """How many of the outputs are differentiable."""
    return len(_outcome(spec, _of_nothing(), of_no_memory).outputs(spec)[0])


def outcome_like(
    backend: Backend,
    spec: Spec,
    tensors: Sequence[Tensor],
    needs: Needs,
    mode: Mode,
    new: New | None = None,
    sizes: Sizes | None = None,
) -> Outcome:
    """An outcome of the shapes and dtypes of the true one; by default of tensors like these."""
    sizes = sizes or Sizes.of(spec, tensors)
    make = new or (lambda shape, dtype: tensors[0].new_empty(shape, dtype=dtype))
    outcome = _outcome(spec, sizes, make)
    if not needs.any:
        return outcome
    if mode.at_once:
        ready = _ready(backend, spec, sizes, tensors, needs, make)
        return outcome._replace(residual=Residual(ready=ready))
    state = _state(backend, spec, sizes, mode, make)
    return outcome._replace(residual=Residual(state, _slopes(spec, sizes, make)))


def residual_form_of(
    backend: Backend, spec: Spec, tensors: Sequence[Tensor], needs: Needs, mode: Mode
) -> Residual:
    """A residual whose tensors take no memory."""
    return outcome_like(backend, spec, tensors, needs, mode._replace(kept=0), of_no_memory).residual


def of_no_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of a dtype and a number of dimensions."""
    return torch.empty((0,) * len(shape), dtype=dtype, device="meta")


def _of_nothing() -> Sizes:
    return Sizes(0, 0, 0, torch.float32, torch.float32, torch.device("meta"))


def _outcome(spec: Spec, sizes: Sizes, new: New) -> Outcome:
    n, m, dtype = sizes.n, sizes.m, sizes.dtype
    stats = len(spec.stats)
    loss = None
    if spec.rule is not None:
        rows = n
        if spec.rule.row_count != NONE or spec.rule.col_count != NONE:
            rows = n * spec.rows + m * spec.columns
        loss = new((rows,) if spec.rule.reduction == "none" else (), dtype)

    def own(wanted: bool, length: int, dtype: torch.dtype) -> Tensor | None:
        return new((length,), dtype) if wanted else None

    return Outcome(
        loss,
        _vectors(new, stats * spec.rows, n, dtype),
        _vectors(new, stats * spec.columns, m, dtype),
        own(spec.positives != NONE, n, dtype),
        (own(spec.row_counts != NONE, n, dtype), own(spec.col_counts != NONE, m, dtype)),
        (
            own(spec.ranks and spec.rows, n, torch.int64),
            own(spec.ranks and spec.columns, m, torch.int64),
        ),
        Residual(),
    )


def _state(backend: Backend, spec: Spec, sizes: Sizes, mode: Mode, new: New) -> State:
    sums = len(spec.stats) if spec.log_sums else 0
    forms, dtype, double = backend.has_forms, sizes.dtype, torch.float64
    of_rows, of_cols = sums * spec.rows, sums * spec.columns
    return State(
        row_bits=_vectors(new, of_rows, sizes.n, double),
        col_bits=_vectors(new, of_cols, sizes.m, double),
        row_tops=_vectors(new, of_rows * forms, sizes.n, dtype),
        col_tops=_vectors(new, of_cols * forms, sizes.m, dtype),
        shifts=new((len(spec.stats),), dtype if forms else double),
        flag=new((1,), torch.int32) if forms else None,
        positive=None if spec.positives == NONE else new((sizes.n,), dtype),
        kept=new((mode.kept,), dtype),
    )


def _slopes(spec: Spec, sizes: Sizes, new: New) -> Slopes | None:
    if spec.rule is None:
        return None
    n, m, dtype, stats = sizes.n, sizes.m, sizes.dtype, len(spec.stats)

    def own(wanted: bool, length: int) -> Tensor | None:
        return new((length,), dtype) if wanted else None

    return Slopes(
        _vectors(new, stats * spec.rows, n, dtype),
        _vectors(new, stats * spec.columns, m, dtype),
        own(spec.positives != NONE, n),
        own(spec.row_counts != NONE, n),
        own(spec.col_counts != NONE, m),
    )


def _ready(
    backend: Backend,
    spec: Spec,
    sizes: Sizes,
    tensors: Sequence[Tensor],
    needs: Needs,
    new: New,
) -> Ready:
    n, m, d, dtype, double = sizes.n, sizes.m, sizes.d, sizes.dtype, torch.float64
    scale = None
    if needs.scale:
        one = tensors[spec.scale_slot].numel() == 1
        scale = new((), double) if one else new((n,), double)
    return Ready(
        new((n, d), dtype) if needs.query else None,
        new((m, d), dtype) if needs.key else None,
        scale,
        new((n,), double) if needs.row_bias else None,
        new((m,), double) if needs.col_bias else None,
        new((), dtype) if backend.has_forms else None,
    )


def _vectors(new: New, count: int, length: int, dtype: torch.dtype) -> Vectors:
    return tuple([new((length,), dtype) for _ in range(count)])
