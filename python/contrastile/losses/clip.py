"""The symmetric loss of CLIP: rows and columns of one score matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..engine.rules import softmax_loss
from ..ops import ScoreStats
from ..parallel import Columns, Peers
from ..problem import Channel, Equal, Index, Not, Pairs
from ..problem.checks import check_integers, check_paired
from .ids import SEVERAL_VECTORS, Groups, all_dot_sums, class_dot_sums
from .memory import Memory, Past, merged, merged_columns, past_of
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function, widen
from .rows import (
    Stats,
    finish,
    make_stats,
    reduce_rows,
    shift_of,
    smoothing_term,
    wants_valid,
    with_margin,
)

NAME = "clip_loss"


@loss_function
def clip_loss(
    x: Tensor,
    y: Tensor,
    *,
    ids: Tensor | None = None,
    memory: Memory | None = None,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""The symmetric contrastive loss of CLIP, both directions from one pass over the scores.

    .. math:: L_i = \tfrac12\Big(\log\sum_j e^{S_{ij}} - S_{ii}\Big)
                  + \tfrac12\Big(\log\sum_j e^{S_{ji}} - S_{ii}\Big),\quad
              S_{ij} = s \langle x_i, y_j \rangle

    Args:
        x: [N, D], fp32, fp64, bf16 or fp16 (images, say).
        y: [N, D]; row i belongs to row i of ``x``.
        ids: [N] integers, -1 for none; pairs off the diagonal with equal ids are left out of
            both directions.
        memory: (x, y) of past batches, both [K, D], or (x, y, ids [K]) where there are ``ids``:
            past ``y`` are negatives of the rows of ``x``, past ``x`` of those of ``y``, but for
            those of the same id; without a gradient. With a group all ranks have the same, which
            count once. The scale is one number then.
        label_smoothing: e in [0, 1], spread over the included pairs.
        margin: subtracted from the positive's dot product.
        options: see :class:`~contrastile.losses.options.Options`. A scale per row multiplies
            row i of S, a ``logit_bias`` cancels.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [N] with ``reduction="none"``.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, 2021; Zhang et al. (ConVIRT), 2020.

    >>> import torch
    >>> from contrastile import clip_loss
    >>> x = torch.eye(4)
    >>> clip_loss(x, x, temperature=0.5)
    tensor(0.3408)
    """
    opts = Options(NAME, **options)
    check_paired(NAME, SEVERAL_VECTORS, x=x, y=y)
    n, device = x.shape[0], x.device
    scale = opts.scale(n) if memory is None else opts.scalar_scale(n)
    bias = opts.bias(y)
    weights = opts.row_weights(n)
    if ids is not None:
        ids = check_integers(NAME, "ids", ids, n)
    past = past_of(opts, memory, ["x", "y"], None if ids is None else ("ids", ids), x)
    columns = opts.peers.columns("y", y)
    groups = None if ids is None else Groups.among(columns, ids, opts.ignore_label)
    x, y = opts.embeddings(x), opts.embeddings(y)

    own = columns.place(Index.diagonal(n, device=device))
    kept: Pairs = Not(own)
    if groups is not None:
        kept = kept & Not(Equal(groups.query, groups.key))
    plain = margin == 0.0 and label_smoothing == 0.0 and memory is None
    stats = columns.log_sum_exp(
        x,
        y,
        scale=scale,
        channels=[Channel(kept)],
        columns=True,
        positives=own,
        ranks=opts.return_stats,
        row_loss=opts.row_loss("softmax", weights, share=0.5) if plain else None,
        **opts.engine,
    )

    if memory is not None:
        stats = _with_past(opts, stats, x, y, scale, past)

    def valid() -> Tensor:
        return ~(torch.isneginf(stats.rows[0]) | torch.isneginf(stats.columns[0]))

    def seen() -> Stats:
        raw = stats.scores_of_positives
        some, shift = valid(), shift_of(bias, raw)
        positive = with_margin(raw, scale, margin)
        row, column = (
            torch.logaddexp(lse, positive) + shift for lse in (stats.rows[0], stats.columns[0])
        )
        of_columns = make_stats(opts, column, raw + shift, stats.col_rank, some)
        return make_stats(opts, row, raw + shift, stats.row_rank, some, of_columns)

    if stats.loss is not None:
        return finish(opts, stats.loss, valid, seen, bias)
    raw = stats.scores_of_positives
    positive = with_margin(raw, scale, margin)
    row, column = (softmax_loss(lse, positive) for lse in (stats.rows[0], stats.columns[0]))
    losses = (row + column) * 0.5
    if label_smoothing:
        for total, included in _included(opts.peers, columns, x, y, groups, scale, past):
            part = smoothing_term(positive, total - raw, included, label_smoothing)
            losses = losses + 0.5 * part
    return reduce_rows(opts, losses, valid if wants_valid(opts) else None, weights, seen, bias)


def clip_loss_reference(x: Tensor, y: Tensor, *, logit_scale: float | Tensor) -> Tensor:
    """The formula with all of S in memory, mean over rows: what :func:`clip_loss` must equal."""
    logits = logit_scale * x @ y.T
    target = torch.arange(len(x), device=x.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


class ClipLoss(Loss):
    """Module twin of :func:`~contrastile.functional.clip_loss`; takes its options."""

    function = staticmethod(clip_loss)


def _with_past(
    opts: Options,
    stats: ScoreStats,
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    past: Sequence[Past],
) -> ScoreStats:
    """With the past rows of y among the columns, and those of x among the rows."""
    past_x, past_y = past
    raw = stats.scores_of_positives
    of_rows = past_y.log_sum_exp(opts, x, scale, [past_y.others], raw)
    of_columns = past_x.log_sum_exp(opts, y, scale, [past_x.others], raw)
    return merged_columns(merged(stats, of_rows), of_columns)


def _included(
    peers: Peers,
    columns: Columns,
    x: Tensor,
    y: Tensor,
    groups: Groups | None,
    scale: float | Tensor,
    past: Sequence[Past],
) -> list[tuple[Tensor, Tensor]]:
    """Sum of the included scores, the positive among them, and their number: rows, columns."""
    count = torch.full((x.shape[0],), columns.total, device=x.device)
    # A number times half precision is half precision, and rounded.
    x, y = widen(x), widen(y)
    # A per-row scale belongs to the query, so it is applied before summing over rows.
    scaled = (
        x if isinstance(scale, float) else x * (scale if scale.dim() == 0 else scale.view(-1, 1))
    )
    factor = scale if isinstance(scale, float) else 1.0
    sums = []
    for a, b in ((scaled, y), (y, scaled)):
        dots = all_dot_sums(peers, a, b)
        number = count
        if groups is not None:
            dots = dots - class_dot_sums(columns, groups, a, b) + (a * b).sum(1)
            number = count - groups.counts() + 1
        sums.append((dots * factor, number))
    if not past:
        return sums
    past_x, past_y = past
    further = (past_y.included(x), past_x.included(y))
    return [
        (dots + more * scale, number + count)
        for (dots, number), (more, count) in zip(sums, further, strict=True)
    ]
