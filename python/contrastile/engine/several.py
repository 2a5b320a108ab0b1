"""The loss of rows (and columns) with several positives, from the log-sum-exps of both kinds.

"out" is "in" plus the gap between the log of the positives' mean power and their mean score. So
nothing nearly equal is subtracted when the positives agree and rule their rows; one positive has no
gap at all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..problem.spec import NONE
from .job import Job
from .rules import EXACT_FROM, Slopes, beside, softmax_loss
from .state import Reduced


class Side(NamedTuple):
    """One direction: log-sum-exps of negatives and of positives, how many there are, their gap."""

    negatives: Tensor
    positives: Tensor
    how_many: Tensor
    gap: Tensor | None
    weights: Tensor | None


def several_loss(negatives: Tensor, positives: Tensor, count: Tensor, gap: Tensor | None) -> Tensor:
    """log of the sum of all powers less log of the positives' mean power, plus their gap; of rows
    without a positive it means nothing.
    """
    losses = softmax_loss(negatives, positives) + log_count(count, negatives)
    return losses if gap is None else losses + gap.to(losses.dtype)


def log_count(count: Tensor, like: Tensor) -> Tensor:
    """log of a row's number of positives, 0 where it has none, in the dtype of ``like``."""
    return count.clamp(min=1).to(like.dtype).log()


def evaluated(
    job: Job, reduced: Reduced, gaps: tuple[Tensor | None, Tensor | None], wanted: bool
) -> tuple[Tensor, Slopes | None]:
    """The loss of all rows and columns, and its slopes if they are wanted.

    The mean is one of each direction, which have the same share; else they stand one after the
    other.
    """
    rule = job.spec.rule
    assert rule is not None
    sides = _sides(job, reduced, gaps)
    weighted = [_losses(side) for side in sides]
    if rule.reduction == "none":
        loss = torch.cat(weighted)
    elif rule.reduction == "sum":
        loss = torch.cat(weighted).sum()
    else:
        means = [
            own.sum() / _divisor(rule.skip, side) for own, side in zip(weighted, sides, strict=True)
        ]
        loss = means[0] if len(means) == 1 else (means[0] + means[1]) * rule.share
    if not wanted:
        return loss, None
    mean, skip = rule.reduction == "mean", rule.skip
    share = rule.share if mean and len(sides) == 2 else 1.0
    found = [_slopes(side, share / _divisor(skip, side) if mean else share) for side in sides]
    rows = found.pop(0) if job.spec.rows else ((), None)
    cols = found.pop(0) if job.spec.columns else ((), None)
    return loss, Slopes(rows[0], cols[0], None, rows[1], cols[1])


def _sides(job: Job, reduced: Reduced, gaps: tuple[Tensor | None, Tensor | None]) -> list[Side]:
    spec, sizes = job.spec, job.sizes
    rule = spec.rule
    assert rule is not None
    weights = beside(job.tensor(rule.weights), (reduced.rows or reduced.cols)[0])
    n = sizes.n if spec.rows else 0
    of_rows, of_cols = (None, None) if weights is None else (weights[:n], weights[n:])
    sides = []
    for stats, slot, gap, own in (
        (reduced.rows, rule.row_count, gaps[0], of_rows),
        (reduced.cols, rule.col_count, gaps[1], of_cols),
    ):
        if slot != NONE:
            negatives, positives = stats
            sides.append(Side(negatives, positives, job.tensors[slot], gap, own))
    return sides


def _losses(side: Side) -> Tensor:
    own = several_loss(side.negatives, side.positives, side.how_many, side.gap)
    losses = torch.where(side.how_many > 0, own, 0.0)
    return losses if side.weights is None else losses * side.weights


def _divisor(skip: bool, side: Side) -> int | Tensor:
    if skip:
        # An integer tensor that divides a number would make fp32 of it.
        return (side.how_many > 0).sum().clamp(min=1).to(side.negatives.dtype)
    return max(side.how_many.shape[0], 1)


def _slopes(side: Side, grad: float | Tensor) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """Of both log-sum-exps, and of the gap."""
    like = side.negatives
    grad = grad.to(like.dtype) if isinstance(grad, Tensor) else like.new_full((), grad)
    own = torch.where(side.how_many > 0, grad, 0.0)
    if side.weights is not None:
        own = own * side.weights
    slope = torch.ops.aten.softplus_backward(own, side.negatives - side.positives, 1.0, EXACT_FROM)
    return (slope, -slope), None if side.gap is None else own
