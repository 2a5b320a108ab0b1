"""The loss of rows (and columns) with several positives, from the log-sum-exps of both kinds.

"out" is "in" plus the gap between the log of the positives' mean power and their mean score. So
nothing nearly equal is subtracted when the positives agree and rule their rows; one positive has no
gap at all.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from .. import native
from ..problem.spec import NONE, Rule
from .gaps import gap, of_pairs, scores_of
from .job import Job
from .rules import EXACT_FROM, Slopes, beside, softmax_loss
from .state import Reduced


class Side(NamedTuple):
    """One direction: log-sum-exps of negatives and of positives, how many of these there are, their
    log-sum-exp in bits and the sum of their scores where the loss has a gap.
    """

    negatives: Tensor
    positives: Tensor
    how_many: Tensor
    bits: Tensor | None
    scores: Tensor | None
    weights: Tensor | None


class SideSlopes(NamedTuple):
    """Gradients of both log-sum-exps, that of the gap in the second; what each pair has besides."""

    stats: tuple[Tensor, ...] = ()
    line: Tensor | None = None


def several_loss(negatives: Tensor, positives: Tensor, count: Tensor, gap: Tensor | None) -> Tensor:
    """log of the sum of all powers less log of the positives' mean power, plus their gap; of rows
    without a positive it means nothing.
    """
    losses = softmax_loss(negatives, positives) + log_count(count, negatives)
    return losses if gap is None else losses + gap.to(losses.dtype)


def log_count(count: Tensor, like: Tensor) -> Tensor:
    """log of a row's number of positives, 0 where it has none, in the dtype of ``like``."""
    return count.clamp(min=1).to(like.dtype).log()


def evaluated(job: Job, reduced: Reduced, wanted: bool) -> tuple[Tensor, Slopes | None]:
    """The loss of all rows and columns, and its slopes if they are wanted.

    The mean is one of each direction, which have the same share; else they stand one after the
    other. Compiled where that can be: in fp64, rounded once.
    """
    rule = job.spec.rule
    assert rule is not None
    sides = _sides(job, rule, reduced)
    like = sides[0].negatives
    module = native.load_for(like)
    share = rule.share if rule.reduction == "mean" and len(sides) == 2 else 1.0
    if module is None:
        found = [(_loss(side, rule, share), _slopes(side, rule, share)) for side in sides]
    else:
        found = [_compiled(module, side, rule, share) for side in sides]
    losses, slopes = [own[0] for own in found], [own[1] for own in found]
    loss = torch.cat(losses) if rule.reduction == "none" else torch.stack(losses).sum()
    if not wanted:
        return loss.to(like.dtype), None
    rows = slopes.pop(0) if job.spec.rows else SideSlopes()
    cols = slopes.pop(0) if job.spec.columns else SideSlopes()
    return loss.to(like.dtype), Slopes(rows.stats, cols.stats, None, rows.line, cols.line)


def _sides(job: Job, rule: Rule, reduced: Reduced) -> list[Side]:
    spec, sizes, state = job.spec, job.sizes, reduced.state
    weights = beside(job.tensor(rule.weights), (reduced.rows or reduced.cols)[0])
    n = sizes.n if spec.rows else 0
    of_rows, of_cols = (None, None) if weights is None else (weights[:n], weights[n:])
    scores = scores_of(job, reduced)
    sides = []
    for stats, slot, bits, sums, own in (
        (reduced.rows, rule.row_count, state.row_bits, scores[0], of_rows),
        (reduced.cols, rule.col_count, state.col_bits, scores[1], of_cols),
    ):
        if slot != NONE:
            last = None if sums is None else bits[-1]
            negatives, positives = stats
            sides.append(Side(negatives, positives, job.tensors[slot], last, sums, own))
    return sides


def _loss(side: Side, rule: Rule, share: float) -> Tensor:
    """The loss of each row, or of all."""
    jensen = None
    if side.bits is not None and side.scores is not None:
        jensen = gap(side.bits, side.scores, side.how_many, side.negatives.dtype)
    own = several_loss(side.negatives, side.positives, side.how_many, jensen)
    losses = torch.where(side.how_many > 0, own, 0.0)
    if side.weights is not None:
        losses = losses * side.weights
    if rule.reduction == "none":
        return losses
    return losses.sum() / _divisor(rule, side) * share


def _slopes(side: Side, rule: Rule, share: float) -> SideSlopes:
    like = side.negatives
    factor = share / _divisor(rule, side)
    grad = factor.to(like.dtype) if isinstance(factor, Tensor) else like.new_full((), factor)
    own = torch.where(side.how_many > 0, grad, 0.0)
    if side.weights is not None:
        own = own * side.weights
    slope = torch.ops.aten.softplus_backward(own, side.negatives - side.positives, 1.0, EXACT_FROM)
    if side.scores is None:
        return SideSlopes((slope, -slope))
    of_gap, line = of_pairs(own, side.how_many, like.dtype)
    return SideSlopes((slope, of_gap - slope), line)


def _divisor(rule: Rule, side: Side) -> int | Tensor:
    """What the sum of losses is divided by."""
    if rule.reduction != "mean":
        return 1
    if rule.skip:
        # An integer tensor that divides a number would make fp32 of it.
        return (side.how_many > 0).sum().clamp(min=1).to(side.negatives.dtype)
    return max(side.how_many.shape[0], 1)


def _compiled(
    module: ModuleType, side: Side, rule: Rule, share: float
) -> tuple[Tensor, SideSlopes]:
    like = side.negatives
    each = torch.empty_like(like) if rule.reduction == "none" else None
    slopes = torch.empty_like(like), torch.empty_like(like)
    line = None if side.scores is None else torch.empty_like(like)
    total = module.several_loss(
        native.is_double(like),
        rule.reduction == "mean",
        rule.skip,
        share,
        like.shape[0],
        *side,
        each,
        *slopes,
        line,
    )
    # In fp64, so that both directions are summed before they are rounded.
    loss = torch.tensor(total, dtype=torch.float64) if each is None else each
    return loss, SideSlopes(slopes, line)
