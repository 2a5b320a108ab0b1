"""The losses of rows and their slopes in one launch, not in two dozen operations of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...engine.rules import beside
from ...engine.state import Upstream, Vectors
from ...problem.spec import Rule
from ...triton_kernels import row_loss
from ...triton_kernels.row_loss import Outputs, Rows, Scores
from ..gpu.memory import Memory
from .bound import Bound
from .program import SWEEP, programs

RULES = {
    "softmax": row_loss.Rule(row_loss.nothing, row_loss.softmax),
    "decoupled": row_loss.Rule(row_loss.nothing, row_loss.decoupled),
    "sigmoid": row_loss.Rule(row_loss.attraction, row_loss.total),
}
# Up to so many rows one program takes all: the launch of another that adds up costs more.
ALONE = 8 * SWEEP


def loss_of_rows(
    bound: Bound, memory: Memory, rows: Vectors, cols: Vectors, wanted: bool
) -> tuple[Tensor, Upstream | None]:
    """The loss of stats, and its slopes for a gradient of 1 if they are ``wanted``."""
    rule, sizes = _rule(bound), bound.scene.sizes
    each, device = rule.reduction == "none", sizes.device
    loss = torch.empty((sizes.n,) if each else (), dtype=sizes.dtype, device=device)
    several = not each and sizes.n > ALONE
    grid = programs(sizes.n, SWEEP) if each or several else 1
    parts: Vectors = ()
    if several:
        parts = (torch.empty(grid, dtype=torch.float64, device=device),)
    stats = (*rows, *cols)
    slopes: Vectors = tuple([torch.empty_like(stat) for stat in stats]) if wanted else ()
    positive = _vector(bound) if wanted else None
    made = () if positive is None else (positive,)
    _launch(bound, memory, grid, stats, Outputs((loss,), parts, slopes, made))
    if several:
        add_up = bound.program.vectors(row_loss.add_up, BLOCK=SWEEP)
        add_up(1, *parts, grid, loss)
    if positive is None:
        return loss, None
    count = len(rows)
    of_cols = slopes[count:] or (None,) * count
    return loss, Upstream(slopes[:count], of_cols, positive)


def slopes_of_sums(bound: Bound, memory: Memory) -> Upstream:
    """Those of a rule of sums, before there are any: they depend on the positives' scores alone."""
    own, positive, dots = _vector(bound), _vector(bound), _dots(memory)
    grid = programs(bound.scene.sizes.n, SWEEP)
    # Any vector stands for the sums, which all have one slope.
    _launch(bound, memory, grid, (dots,), Outputs((), (), (own,), (positive,)))
    count = len(bound.scene.spec.stats)
    return Upstream((own,) * count, (None,) * count, positive)


def _launch(bound: Bound, memory: Memory, grid: int, stats: Vectors, outputs: Outputs) -> None:
    job, rule, program = bound.scene.job, _rule(bound), bound.program
    columns, dots = job.positives, _dots(memory)
    assert columns is not None
    scale, *biases = job.scores
    if not isinstance(scale, Tensor):
        scale = torch.full((), scale, dtype=torch.float64, device=dots.device)
    skip, mean = rule.skip, rule.reduction == "mean"
    count = dots
    if skip and mean:
        count = torch.empty((), dtype=torch.float64, device=dots.device)
        counter = program.vectors(row_loss.count_rows, SOME=rule.some_without, BLOCK=SWEEP)
        counter(1, columns, stats, job.sizes.n, count)
    weights, omega = (_one(beside(job.tensor(slot), dots)) for slot in (rule.weights, rule.omega))
    start = program.vectors(
        row_loss.row_loss,
        # What of the outputs there is.
        tuple([len(own) for own in outputs]),
        RULE=RULES[rule.name],
        SHARE=rule.share,
        MEAN=mean,
        EACH=rule.reduction == "none",
        SKIP=skip,
        SOME=rule.some_without,
        PER_ROW=scale.dim() > 0,
        BLOCK=SWEEP,
    )
    start(
        grid,
        Scores(dots, columns, scale, *[() if bias is None else (bias,) for bias in biases]),
        Rows(stats, weights, omega, count),
        outputs,
        job.sizes.n,
        job.sizes.m,
        *[0 if bias is None else bias.stride(0) for bias in biases],
    )


def _rule(bound: Bound) -> Rule:
    rule = bound.scene.spec.rule
    assert rule is not None
    return rule


def _dots(memory: Memory) -> Tensor:
    assert memory.positive is not None, "a loss of rows has positives"
    return memory.positive


def _vector(bound: Bound) -> Tensor:
    sizes = bound.scene.sizes
    return torch.empty(sizes.n, dtype=sizes.dtype, device=sizes.device)


def _one(vector: Tensor | None) -> tuple[Any, ...]:
    return () if vector is None else (vector,)
