"""O(N) formulas over stats: the loss of a row, and the reduction over rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.several import log_count, several_loss
from ..ops import ScoreStats
from ..problem.plain import may_be_read
from .options import LossOutput, Options


@dataclass(frozen=True, eq=False)
class Stats:
    """What a loss saw of its scores, from the same pass; detached.

    Attributes:
        lse: log-sum-exp of the denominator of each row (with the positive where the loss has it
            there); None for losses without one.
        positive: score of each row's positive, or the mean over several; 0 where there is none.
        rank: number of negatives that score above ``positive``, int64; 0 is a hit. One that equals
            it within 8 roundings, a copy of it say, is not above.
        accuracy: share of the non-empty rows whose rank is 0, 0-d.
        columns: the same over columns, for losses of two directions.
    """

    lse: Tensor | None
    positive: Tensor
    rank: Tensor
    accuracy: Tensor
    columns: Stats | None = None


def make_stats(
    options: Options,
    lse: Tensor | None,
    positive: Tensor,
    rank: Tensor | None,
    valid: Tensor,
    columns: Stats | None = None,
) -> Stats:
    """Detached stats; accuracy over the rows that are not empty, those of all ranks."""
    assert rank is not None
    hits = ((rank == 0) & valid).sum().to(torch.get_default_dtype())
    hits = options.peers.loss(hits, valid.sum())
    return Stats(None if lse is None else lse.detach(), positive.detach(), rank, hits, columns)


def poison(loss: Tensor, score: Tensor) -> Tensor:
    """``loss``, but NaN where ``score`` is not finite: never a finite lie."""
    return loss + score.detach() * 0.0


def several_from_means(negatives: Tensor, positives: Tensor, mean: Tensor, count: Tensor) -> Tensor:
    """The loss of rows with ``count`` positives, "out", with the gap between the log of their mean
    power and their mean score taken from sums over classes.

    Where the plain formula rounds scores to half precision that is exact enough; else the gap comes
    from the pass over the scores (engine/several.py).
    """
    gap = positives - log_count(count, positives) - mean
    return several_loss(negatives, positives, count, poison(torch.where(count > 1, gap, 0.0), mean))


def merged_gap(own: ScoreStats, count: Tensor, more: ScoreStats, more_count: Tensor) -> Tensor:
    """The gap of positives of two passes: the mean of both gaps, and that of the logs of their mean
    powers, which each side has one of.
    """
    assert own.row_gap is not None and more.row_gap is not None
    logs = [s.rows[-1] - log_count(n, s.rows[-1]) for s, n in ((own, count), (more, more_count))]
    both = (count > 0) & (more_count > 0)
    difference = torch.where(both, logs[1] - logs[0], 0.0)
    total = (count + more_count).clamp(min=1).to(difference.dtype)
    share, more_share = count / total, more_count / total
    # log(1 - w + w e^d) - w d, with the larger side as the one where d is 0: nothing overflows.
    weight = torch.where(difference > 0, share, more_share)
    less = -difference.abs()
    between = torch.log1p(weight * torch.expm1(less)) - weight * less
    return own.row_gap * share + more.row_gap * more_share + between


def asks_for_gap(options: Options, variant: str, *embeddings: Tensor) -> bool:
    """Whether the loss needs the gap from the scores; see :func:`several_from_means`. With peers it
    does, as sums over classes would have to be exchanged.
    """
    wide = any(x.element_size() > 2 for x in embeddings)
    return variant == "out" and (wide or not options.peers.alone)


def with_margin(positive: Tensor, scale: float | Tensor, margin: float) -> Tensor:
    """The positive's score after an additive margin on its dot product."""
    if margin == 0.0:
        return positive
    less = scale * margin
    return positive - (less.to(positive.dtype) if isinstance(less, Tensor) else less)


def smoothing_term(
    positive: Tensor, negative_sum: Tensor, included: Tensor, smoothing: float
) -> Tensor:
    """What label smoothing adds to a row: e (pos - mean of the included scores)."""
    mean = (positive + negative_sum) / included.clamp(min=1)
    return smoothing * (positive - mean.to(positive.dtype))


def shift_of(cancelled: Tensor | None, like: Tensor) -> Tensor | float:
    """What a bias that all scores share adds to those that are shown, in the dtype of ``like``."""
    return 0.0 if cancelled is None else cancelled[:1].sum().to(like.dtype)


def reduce_rows(
    options: Options,
    losses: Tensor,
    valid: Callable[[], Tensor] | None,
    weights: Tensor | None,
    stats: Callable[[], Stats] | None = None,
    cancelled: Tensor | None = None,
) -> LossOutput:
    """The loss from its rows.

    ``valid`` tells empty rows; None if a row's loss already is 0. ``cancelled`` is a bias that the
    formula cancels.
    """
    count: int | Tensor = losses.shape[0]
    if valid is not None:
        kept = valid()
        losses = _full(options, torch.where(kept, losses, 0.0), kept)
        if options.empty == "skip":
            count = kept.sum()
    if weights is not None:
        losses = losses * weights.to(losses.dtype)
    losses = _with_cancelled(losses, cancelled)
    if options.reduction != "none":
        mean = options.reduction == "mean"
        losses = options.peers.loss(losses.sum(), count if mean else None)
    return (losses, stats()) if stats is not None and options.return_stats else losses


def finish(
    options: Options,
    loss: Tensor,
    valid: Callable[[], Tensor],
    stats: Callable[[], Stats],
    cancelled: Tensor | None = None,
) -> LossOutput:
    """A loss that was summed over rows in the pass over the scores; see :func:`reduce_rows`."""
    if options.empty == "error":
        loss = _full(options, loss, valid())
    loss = _with_cancelled(loss, cancelled)
    return (loss, stats()) if options.return_stats else loss


def _with_cancelled(loss: Tensor, cancelled: Tensor | None) -> Tensor:
    """A loss that a bias has cancelled in. Its gradient is 0, but there is one: a parameter without
    a gradient would stall a data-parallel reduction.
    """
    if cancelled is None:
        return loss
    return loss + 0.0 * cancelled[:1].sum().to(loss.dtype)


def _full(options: Options, loss: Tensor, kept: Tensor) -> Tensor:
    """``loss``, if no row is empty or empty rows are allowed; else an error. A trace has no values
    to find empty rows by: what it makes of them is NaN.
    """
    if options.empty != "error":
        return loss
    if not may_be_read(kept):
        return loss * torch.where(kept.all(), 1.0, torch.nan)
    fault = None
    if not bool(kept.all()):
        first = int((~kept).nonzero()[0])
        fault = (
            f"{int((~kept).sum())} of {len(kept)} rows have no positive or no negative, the first "
            f"is row {first}; empty='zero' or 'skip' allows them"
        )
    options.peers.check(options.caller, fault)
    return loss


def wants_valid(options: Options) -> bool:
    """Whether empty rows must be told apart from rows whose loss is 0."""
    return options.empty != "zero" or options.return_stats
