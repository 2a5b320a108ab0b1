"""Blocks of scores that make one denominator: pairs whose number exceeds a limit are left out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.rules import softmax_loss
from ..ops import ScoreStats, sweep
from ..parallel import Columns
from ..problem import Above, Channel, Index, InputError, Not, Pairs, Plane, Reduction
from .options import LossOutput, Options, widen
from .rows import Stats, make_stats, poison, reduce_rows, shift_of, wants_valid


@dataclass(frozen=True, eq=False)
class Side:
    """One set of embeddings: this process's rows, and as columns the rows of all ranks.

    A guide's embeddings of the same items say which pairs count; without a guide the scores do.
    """

    rows: Tensor
    columns: Tensor
    guide_rows: Tensor | None = None
    guide_columns: Tensor | None = None

    @classmethod
    def of(cls, columns: Columns, embeddings: Tensor, guide: Tensor | None = None) -> Side:
        """Those that the ``columns`` are made of."""
        everywhere = columns.matrix_everywhere(embeddings)
        if guide is None:
            return cls(embeddings, everywhere)
        return cls(embeddings, everywhere, guide, columns.matrix_everywhere(guide))


def check_keys_stay(opts: Options) -> None:
    """Keys are all there at once: a ring and the host pass them by one matrix of scores."""
    if opts.offload is not None:
        raise InputError(f"{opts.caller}: its scores are several matrices; leave offload out")
    if opts.exchange == "ring" and not opts.peers.alone:
        raise InputError(
            f"{opts.caller}: its scores are several matrices, whose keys are gathered; exchange "
            "must be 'gather' or 'auto', got 'ring'"
        )


@torch.no_grad()
def paired_dots(query: Tensor, key: Tensor) -> Tensor:
    """<q_i, k_i>, a constant."""
    return (widen(query) * widen(key)).sum(1)


@torch.no_grad()
def shift_of_rows(dots: Tensor, scale: float | Tensor) -> Tensor:
    """About the score of each row's positive, of its dot product: what is taken from all scores of
    the row.

    It cancels in the loss. The log-sum-exp of a block is rounded before it meets the others, and
    beside the positive's score it is small.
    """
    return (dots * scale).to(dots.dtype)


def block_stats(
    opts: Options,
    query: Side,
    key: Side,
    scale: float | Tensor,
    shift: Tensor,
    limits: Tensor,
    kept: Pairs | None = None,
    *,
    positives: Index | None = None,
    thresholds: Tensor | None = None,
) -> ScoreStats:
    """Of the pairs that are ``kept`` and whose number does not exceed the row's limit: the guide's
    number, or without a guide the dot product itself. Scores are less the ``shift``.
    """
    planes = [_plane(query.rows, key.columns)]
    if query.guide_rows is not None and key.guide_columns is not None:
        planes.append(_plane(query.guide_rows, key.guide_columns))
    within: Pairs = Not(Above(len(planes) - 1, rows=limits))
    reduction = Reduction(
        channels=[Channel(within if kept is None else kept & within)],
        scale=scale,
        row_bias=-shift,
        positives=positives,
        ranks=opts.return_stats,
        row_thresholds=thresholds,
    )
    (stats,) = sweep(planes, [reduction], **opts.engine)
    return stats


def _plane(query: Tensor, key: Tensor) -> Plane:
    return Plane(query, None if key is query else key)


def softmax_of(
    opts: Options,
    stats: ScoreStats,
    shift: Tensor,
    limits: Tensor,
    weights: Tensor | None,
    bias: Tensor | None,
) -> LossOutput:
    """The loss of rows whose negatives are those of all blocks together; NaN where the limit is
    no number and nothing is known of them.
    """
    lse, positive = stats.rows[0], stats.scores_of_positives

    def valid() -> Tensor:
        return ~torch.isneginf(lse)

    def seen() -> Stats:
        more = shift + shift_of(bias, positive)
        whole = torch.logaddexp(lse, positive) + more
        return make_stats(opts, whole, positive + more, stats.row_rank, valid())

    losses = poison(softmax_loss(lse, positive), limits)
    return reduce_rows(opts, losses, valid if wants_valid(opts) else None, weights, seen, bias)
