"""GRAM: the volume that the embeddings of several modalities span is their distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..engine.rules import softmax_loss
from ..ops import sweep
from ..parallel import Columns
from ..problem import (
    Channel,
    Index,
    InputError,
    Map,
    Mapped,
    Not,
    Pairs,
    Phi,
    Plane,
    Reduction,
    Term,
)
from ..problem.checks import SEVERAL, check_paired
from ..problem.planes import READS, AnyPlane
from .blocks import check_keys_stay
from .module import Loss
from .options import LossOptions, LossOutput, Options, loss_function, widen
from .rows import Stats, make_stats, reduce_rows, shift_of, smoothing_term, wants_valid

NAME = "gram_loss"
# A vector of which less than so many roundings is left lies in the span of those before it.
ROUNDINGS = 16


@loss_function
def gram_loss(
    anchor: Tensor,
    *modalities: Tensor,
    label_smoothing: float = 0.0,
    **options: Unpack[LossOptions],
) -> LossOutput:
    r"""Symmetric cross-entropy of volumes: each anchor with the modalities of all items.

    .. math:: L_i = \tfrac12\Big(\log\sum_j e^{S_{ij}} - S_{ii}\Big)
                  + \tfrac12\Big(\log\sum_j e^{S_{ji}} - S_{ii}\Big),\quad
              S_{ij} = -s\, V_{ij},\quad
              V_{ij} = \sqrt{\det \mathrm{Gram}(l_i, m^1_j, \dots, m^k_j)}

    the volume of the parallelepiped of anchor i and the k modalities of item j, which is 0 where
    they are in one plane. The modalities of each item are made orthonormal, in O(N k^2 D); with
    their own volume c and directions u, :math:`V_{ij} = c_j \sqrt{|l_i|^2 - \sum_m \langle l_i,
    u^m_j \rangle^2}`, of k products. A volume of 0 has no gradient: not that of modalities which
    are parallel, nor that of an anchor in their span.

    Args:
        anchor: l [N, D], fp32, fp64, bf16 or fp16 (texts, say).
        modalities: one to seven of [N, D]; row i of each belongs to row i of ``anchor``.
        label_smoothing: e in [0, 1], spread over all pairs; the paper's code has 0.1.
        options: see :class:`~contrastile.losses.options.Options`. The scale is one number;
            ``temperature`` is the paper's. A ``logit_bias`` cancels. Over a group keys are
            gathered.

    Returns:
        fp32 (fp64 for fp64 input): 0-d, or [N] with ``reduction="none"``.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).

    Source: Cicchetti et al. 2024, Gramian Multimodal Representation Learning and Alignment.

    >>> import torch
    >>> from contrastile import gram_loss
    >>> x = torch.eye(4)
    >>> gram_loss(x, x, x.roll(1, 1), temperature=0.5)
    tensor(0.8201)
    """
    opts = Options(NAME, **options)
    check_keys_stay(opts)
    most = READS[Map.VOLUME][1]
    if not 1 <= len(modalities) <= most:
        raise InputError(f"{NAME}: takes one to {most} modalities, got {len(modalities)}")
    for number, modality in enumerate(modalities):
        pair = {"anchor": anchor, f"modalities[{number}]": modality}
        check_paired(NAME, SEVERAL, **pair)
    n = anchor.shape[0]
    scale, bias, weights = opts.scalar_scale(n), opts.bias(anchor), opts.row_weights(n)
    columns = opts.peers.columns("anchor", anchor)
    anchor = widen(opts.embeddings(anchor))
    span = Span.of([widen(opts.embeddings(modality)) for modality in modalities])
    length, _ = _lengths(span.away_from(anchor), anchor)
    volume = span.volume * length
    look = Look(opts, scale, -scale * volume.detach(), label_smoothing > 0)
    kept = Not(columns.place(Index.diagonal(n, device=anchor.device)))
    if opts.peers.alone:
        rows, cols = look.of(_volumes(anchor, span), kept, both=True)
    else:
        (rows,) = look.of(_volumes(anchor, span.everywhere(columns)), kept)
        swapped = _swapped_volumes(span, columns.matrix_everywhere(anchor))
        (cols,) = look.of(swapped, kept, factor=span.volume)
    positive = -scale * volume

    def valid() -> Tensor:
        return ~(torch.isneginf(rows.others) | torch.isneginf(cols.others))

    def seen() -> Stats:
        some, shift = valid(), shift_of(bias, positive)
        row, column = (
            (torch.logaddexp(side.others, positive) + shift, positive + shift, side.rank)
            for side in (rows, cols)
        )
        return make_stats(opts, *row, some, make_stats(opts, *column, some))

    losses = (softmax_loss(rows.others, positive) + softmax_loss(cols.others, positive)) * 0.5
    for side in (rows, cols):
        if side.total is not None:
            included = torch.full_like(positive, columns.total)
            part = smoothing_term(positive, -scale * side.total, included, label_smoothing)
            losses = losses + 0.5 * part
    return reduce_rows(opts, losses, valid if wants_valid(opts) else None, weights, seen, bias)


def gram_loss_reference(anchor: Tensor, *modalities: Tensor, logit_scale: float | Tensor) -> Tensor:
    """The formula with all scores in memory, mean over rows: what :func:`gram_loss` must equal."""
    n, m = len(anchor), len(modalities)
    items = torch.stack(modalities, 1)
    vectors = torch.cat(
        [anchor[:, None, None].expand(n, n, 1, -1), items[None].expand(n, n, m, -1)], dim=2
    )
    logits = -logit_scale * torch.linalg.det(vectors @ vectors.mT).clamp(min=0).sqrt()
    target = torch.arange(n, device=anchor.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


class GramLoss(Loss):
    """Module twin of :func:`~contrastile.functional.gram_loss`; takes its options."""

    function = staticmethod(gram_loss)


class Span(NamedTuple):
    """Orthonormal directions of the modalities of each item, and the volume that these span."""

    directions: Sequence[Tensor]
    volume: Tensor

    @classmethod
    def of(cls, vectors: Sequence[Tensor]) -> Span:
        """By Gram and Schmidt; of one that lies in the span of those before it no direction."""
        directions: list[Tensor] = []
        volume = vectors[0].new_ones(vectors[0].shape[0])
        for vector in vectors:
            left = cls(directions, volume).away_from(vector)
            length, there = _lengths(left, vector)
            reciprocal = torch.where(there, 1.0 / torch.where(there, length, 1.0), 0.0)
            directions.append(left * reciprocal[:, None])
            volume = volume * length
        return cls(directions, volume)

    def away_from(self, x: Tensor) -> Tensor:
        """What of each row is not in the span of its item."""
        for own in self.directions:
            x = x - (x * own).sum(1, keepdim=True) * own
        return x

    def everywhere(self, columns: Columns) -> Span:
        """Those of the items of all ranks."""
        directions = [columns.matrix_everywhere(own) for own in self.directions]
        return Span(directions, columns.everywhere(self.volume))


class Side(NamedTuple):
    """Of each row the log-sum-exp of all scores but the positive's, how many are above it, and the
    sum of their volumes.
    """

    others: Tensor
    rank: Tensor | None
    total: Tensor | None


class Look(NamedTuple):
    """What is asked of volumes."""

    opts: Options
    scale: float | Tensor
    positive: Tensor
    sums: bool

    def of(
        self,
        planes: Sequence[AnyPlane],
        kept: Pairs,
        factor: Tensor | None = None,
        both: bool = False,
    ) -> list[Side]:
        """Of rows, and of columns too if ``both``; ``factor``: of each row, times its volumes."""
        last, ranks = len(planes) - 1, self.opts.return_stats
        scores = Reduction(
            last,
            channels=[Channel(kept)],
            scale=-self.scale if factor is None else -self.scale * factor,
            columns=both,
            ranks=ranks,
            row_thresholds=self.positive if ranks else None,
            col_thresholds=self.positive if ranks and both else None,
        )
        asked = [scores]
        if self.sums:
            terms = [Term(Phi.IDENTITY, kept)]
            each = 1.0 if factor is None else factor
            asked.append(Reduction(last, terms=terms, scale=each, columns=both))
        stats, *sums = sweep(planes, asked, **self.opts.engine)
        found = [Side(stats.rows[0], stats.row_rank, sums[0].rows[0] if sums else None)]
        if both:
            total = sums[0].columns[0] if sums else None
            found.append(Side(stats.columns[0], stats.col_rank, total))
        return found


def _volumes(anchor: Tensor, span: Span) -> list[AnyPlane]:
    """Each anchor with the modalities of each item."""
    planes = [Plane(anchor, own) for own in span.directions]
    square = anchor.square().sum(1)
    return [*planes, Mapped(Map.VOLUME, tuple(range(len(planes))), square, span.volume)]


def _swapped_volumes(span: Span, anchor: Tensor) -> list[AnyPlane]:
    """The modalities of each item, of volume 1, with each anchor: the volumes of unit anchors,
    times their lengths.
    """
    length, there = _lengths(anchor, anchor)
    reciprocal = torch.where(there, 1.0 / torch.where(there, length, 1.0), 0.0)
    planes = [Plane(own, anchor, col_factor=reciprocal) for own in span.directions]
    return [*planes, Mapped(Map.VOLUME, tuple(range(len(planes))), None, length)]


def _lengths(left: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """The lengths of what is left of vectors, 0 and without gradient where that is but rounding;
    and where it is not.
    """
    square = left.square().sum(1)
    least = (ROUNDINGS * torch.finfo(left.dtype).eps) ** 2 * whole.detach().square().sum(1)
    there = square > least
    return torch.where(there, torch.where(there, square, 1.0).sqrt(), 0.0), there
