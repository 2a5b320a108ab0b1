"""The losses of rows from their stats, and the gradients of the stats: what RowLoss names.

Each rule is written twice, its value and its slopes; tests/test_rules.py differentiates the first.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import native
from ..problem.row_loss import REDUCTIONS, SEVERAL
from ..problem.spec import Rule
from .job import Job
from .spans import WHOLE, part
from .state import MaybeVectors, Vectors

# softplus(x) - x = log(1 + e^-x) is less than half an ulp of x from here on, in fp64 too.
EXACT_FROM = 40.0


class Seen(NamedTuple):
    """Stats of rows, or of a strip of them, and what their rule reads besides."""

    rows: Vectors
    cols: Vectors
    positive: Tensor
    omega: Tensor | None
    # Rows that have a positive; None where all have.
    paired: Tensor | None

    @staticmethod
    def of(job: Job, stats: tuple[Vectors, Vectors], positive: Tensor, rows: slice = WHOLE) -> Seen:
        """Of all rows, or of ``rows`` alone; ``positive`` are the scores of these."""
        rule, columns = job.spec.rule, job.positives
        assert rule is not None and columns is not None
        omega = job.tensor(rule.omega)
        return Seen(
            tuple([part(vector, rows) for vector in stats[0]]),
            stats[1],
            positive,
            None if omega is None else part(omega, rows),
            part(columns, rows) >= 0 if rule.some_without else None,
        )

    @property
    def sides(self) -> tuple[Tensor, ...]:
        """The log-sum-exps of the first stat, of each reduced side."""
        return (*self.rows[:1], *self.cols[:1])

    def full(self) -> Tensor:
        """Rows with a positive and, on every side, a negative."""
        full = (
            torch.ones_like(self.positive, dtype=torch.bool) if self.paired is None else self.paired
        )
        for lse in self.sides:
            full = full & ~torch.isneginf(lse)
        return full


class Slopes(NamedTuple):
    """Gradients with respect to what a rule saw; and what each pair that the last stat keeps has in
    G besides, one number a row and one a column.
    """

    rows: MaybeVectors
    cols: MaybeVectors
    positive: Tensor | None
    row_line: Tensor | None = None
    col_line: Tensor | None = None


class RowRule(NamedTuple):
    """Losses of rows [N]; and the slopes for a gradient of these losses, [N] or one for all."""

    losses: Callable[[Seen, float], Tensor]
    slopes: Callable[[Seen, float, Tensor], Slopes]


def softmax_loss(negatives: Tensor, positive: Tensor) -> Tensor:
    """logaddexp(positive, negatives) - positive, right where the two nearly cancel."""
    return F.softplus(negatives - positive, threshold=EXACT_FROM)


def _softmax(seen: Seen, share: float) -> Tensor:
    first, *others = [softmax_loss(lse, seen.positive) for lse in seen.sides]
    for other in others:
        first = first + other
    losses = first if share == 1.0 else first * share
    return losses if seen.paired is None else torch.where(seen.paired, losses, 0.0)


def _softmax_slopes(seen: Seen, share: float, grad: Tensor) -> Slopes:
    grad = _masked(grad if share == 1.0 else grad * share, seen.paired)
    slopes = [
        torch.ops.aten.softplus_backward(grad.expand_as(lse), lse - seen.positive, 1.0, EXACT_FROM)
        for lse in seen.sides
    ]
    total = slopes[0] if len(slopes) == 1 else slopes[0] + slopes[1]
    return Slopes(tuple(slopes[: len(seen.rows)]), tuple(slopes[len(seen.rows) :]), -total)


def _decoupled(seen: Seen, share: float) -> Tensor:
    (lse,) = seen.rows
    positive = seen.positive if seen.omega is None else seen.omega * seen.positive
    return torch.where(torch.isneginf(lse), 0.0, lse - positive) * share


def _decoupled_slopes(seen: Seen, share: float, grad: Tensor) -> Slopes:
    (lse,) = seen.rows
    own = torch.where(torch.isneginf(lse), 0.0, grad * share)
    return Slopes((own,), (), -own if seen.omega is None else -own * seen.omega)


def _sigmoid(seen: Seen, share: float) -> Tensor:
    losses = -F.logsigmoid(seen.positive)
    for total in seen.rows:
        losses = losses + total
    return losses if share == 1.0 else losses * share


def _sigmoid_slopes(seen: Seen, share: float, grad: Tensor) -> Slopes:
    own = (grad * share).expand_as(seen.positive)
    return Slopes((own,) * len(seen.rows), (), -own * torch.sigmoid(-seen.positive))


def _masked(grad: Tensor, paired: Tensor | None) -> Tensor:
    return grad if paired is None else torch.where(paired, grad, 0.0)


RULES = {
    "softmax": RowRule(_softmax, _softmax_slopes),
    "decoupled": RowRule(_decoupled, _decoupled_slopes),
    "sigmoid": RowRule(_sigmoid, _sigmoid_slopes),
}
# In the order of the compiled code.
RULE_NAMES = (*RULES, SEVERAL)


def evaluated(job: Job, seen: Seen, wanted: bool) -> tuple[Tensor, Slopes | None]:
    """The loss of all rows, and its slopes if they are wanted; compiled where that can be."""
    rule, n = job.spec.rule, job.sizes.n
    assert rule is not None
    weights = beside(job.tensor(rule.weights), seen.positive)
    seen = seen._replace(omega=beside(seen.omega, seen.positive))
    module = native.load_for(seen.positive)
    if module is not None:
        return _compiled(module, job, rule, seen, weights, wanted)
    loss = loss_of(rule, seen, weights)
    return loss, slopes_of(rule, seen, weights, n) if wanted else None


def beside(vector: Tensor | None, stat: Tensor) -> Tensor | None:
    """A vector as the stats are: of their dtype, which the loss has too, and contiguous."""
    return None if vector is None else vector.to(stat.dtype).contiguous().resolve_neg()


def _compiled(
    module: ModuleType, job: Job, rule: Rule, seen: Seen, weights: Tensor | None, wanted: bool
) -> tuple[Tensor, Slopes | None]:
    like = seen.positive
    stats = seen.rows if rule.name == "sigmoid" else seen.sides
    loss = like.new_empty(like.shape[0] if rule.reduction == "none" else ())
    slopes = [torch.empty_like(like) for _ in stats] if wanted else []
    positive = torch.empty_like(like) if wanted else None
    module.row_loss(
        native.is_double(like),
        RULE_NAMES.index(rule.name),
        REDUCTIONS.index(rule.reduction),
        rule.skip,
        rule.share,
        like.shape[0],
        [vector.data_ptr() for vector in stats],
        like.data_ptr(),
        0 if seen.omega is None else seen.omega.data_ptr(),
        job.tensors[job.spec.positives].data_ptr() if rule.some_without else 0,
        0 if weights is None else weights.data_ptr(),
        loss.data_ptr(),
        [slope.data_ptr() for slope in slopes],
        0 if positive is None else positive.data_ptr(),
    )
    if positive is None:
        return loss, None
    rows = len(seen.rows)
    return loss, Slopes(tuple(slopes[:rows]), tuple(slopes[rows:]), positive)


def loss_of(rule: Rule, seen: Seen, weights: Tensor | None) -> Tensor:
    """The loss of all rows, 0-d; of each row, where they are not reduced."""
    losses = RULES[rule.name].losses(seen, rule.share)
    if rule.skip:
        losses = torch.where(seen.full(), losses, 0.0)
    if weights is not None:
        losses = losses * weights
    if rule.reduction == "none":
        return losses
    total = losses.sum()
    return total if rule.reduction == "sum" else total / _count(rule, seen, losses.shape[0])


def slopes_of(rule: Rule, seen: Seen, weights: Tensor | None, n: int) -> Slopes:
    """The gradients of :func:`loss_of`, a loss of ``n`` rows; where rows are not reduced, each of
    its own row's loss.
    """
    count = _count(rule, seen, n) if rule.reduction == "mean" else 1
    like = seen.positive
    if isinstance(count, Tensor):
        grad = 1.0 / count.to(like.dtype)
    else:
        grad = torch.full((), 1.0 / count, dtype=like.dtype, device=like.device)
    if rule.skip:
        grad = _masked(grad, seen.full())
    if weights is not None:
        grad = weights.detach().to(grad.dtype) * grad
    return RULES[rule.name].slopes(seen, rule.share, grad)


def scaled(slopes: Slopes, of_rows: Tensor, of_cols: Tensor) -> Slopes:
    """The slopes times the gradient of the loss: one number, or one a row and one a column."""
    return Slopes(
        tuple([_times(vector, of_rows) for vector in slopes.rows]),
        tuple([_times(vector, of_cols) for vector in slopes.cols]),
        _times(slopes.positive, of_rows),
        _times(slopes.row_line, of_rows),
        _times(slopes.col_line, of_cols),
    )


def _times(vector: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if vector is None else vector * factor


def _count(rule: Rule, seen: Seen, n: int) -> int | Tensor:
    return seen.full().sum().clamp(min=1) if rule.skip else max(n, 1)
