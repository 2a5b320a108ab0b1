"""The sums of shards and of ranks as one: vectors only, in fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..engine.gaps import scale_of_sums
from ..engine.job import Job
from ..engine.positives import positive_scores
from ..engine.state import Reduced, Vectors
from .collectives import Collectives


class Sums(NamedTuple):
    """What a shard comes to, or all of them, or the rows of all ranks; see Reduced.

    Attributes:
        rows: one vector a stat, fp64: log-sum-exps in bits, or sums.
        cols: likewise, of the shard's columns, or of all.
        dots: dot products of the positives.
        positive: their scores.
        row_scores: sums of the scores that the last stat keeps, fp64.
        col_scores: likewise of columns.
        row_count: kept scores above the rows' thresholds.
        col_count: likewise of columns.
    """

    rows: Vectors
    cols: Vectors
    dots: Tensor | None
    positive: Tensor | None
    row_scores: Tensor | None
    col_scores: Tensor | None
    row_count: Tensor | None
    col_count: Tensor | None

    def on(self, device: torch.device) -> Sums:
        """The same there."""
        rows, cols = (tuple([vector.to(device) for vector in side]) for side in self[:2])
        rest = [None if vector is None else vector.to(device) for vector in self[2:]]
        return Sums(rows, cols, *rest)


def sums_of(job: Job, reduced: Reduced) -> Sums:
    """Of one shard."""
    state, exact = reduced.state, scale_of_sums(job)
    if job.spec.log_sums:
        rows, cols = state.row_bits, state.col_bits
    else:
        rows, cols = (
            tuple([vector.double() for vector in side]) for side in (reduced.rows, reduced.cols)
        )
    return Sums(
        rows,
        cols,
        state.positive,
        positive_scores(job, state.positive),
        None if reduced.row_scores is None else reduced.row_scores * exact,
        None if reduced.col_scores is None else reduced.col_scores * exact,
        reduced.row_count,
        reduced.col_count,
    )


def over_shards(parts: Sequence[tuple[slice, Sums]], log_sums: bool) -> Sums:
    """Of all columns, in their order: rows over all shards, columns shard beside shard."""
    ordered = [sums for _, sums in sorted(parts, key=lambda part: part[0].start)]
    return _merged(ordered, _folded(log_sums), _beside, torch.add)


def over_strips(strips: Sequence[Sums], log_sums: bool) -> Sums:
    """Of all rows: rows strip under strip, columns over all strips."""
    return _merged(strips, _beside, _folded(log_sums), _beside)


Merge = Callable[[Tensor, Tensor], Tensor]


def _beside(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second])


def _folded(log_sums: bool) -> Merge:
    return torch.logaddexp2 if log_sums else torch.add


def _merged(parts: Sequence[Sums], rows: Merge, cols: Merge, counted: Merge) -> Sums:
    """``counted``: what is made of sums of rows that are no log-sum-exps; of columns the other."""
    other = _beside if counted is torch.add else torch.add

    def both(left: Tensor | None, right: Tensor | None, merge: Merge) -> Tensor | None:
        return None if left is None or right is None else merge(left, right)

    def vectors(left: Vectors, right: Vectors, merge: Merge) -> Vectors:
        return tuple([merge(a, b) for a, b in zip(left, right, strict=True)])

    whole, *others = parts
    for own in others:
        whole = Sums(
            vectors(whole.rows, own.rows, rows),
            vectors(whole.cols, own.cols, cols),
            both(whole.dots, own.dots, counted),
            both(whole.positive, own.positive, counted),
            both(whole.row_scores, own.row_scores, counted),
            both(whole.col_scores, own.col_scores, other),
            both(whole.row_count, own.row_count, counted),
            both(whole.col_count, own.col_count, other),
        )
    return whole


def over_ranks(collectives: Collectives, sums: Sums, log_sums: bool) -> Sums:
    """Columns over the rows of all ranks."""
    cols = sums.cols
    if cols:
        stacked = torch.stack(cols)
        fold = _log_sum if log_sums else Collectives.sum
        cols = tuple(fold(collectives, stacked))
    return sums._replace(
        cols=cols,
        col_scores=None if sums.col_scores is None else collectives.sum(sums.col_scores),
        col_count=None if sums.col_count is None else collectives.sum(sums.col_count),
    )


def _log_sum(collectives: Collectives, bits: Tensor) -> Tensor:
    """log2 of the sum of 2^bits over ranks; NaN of one rank is NaN on all."""
    top = collectives.largest(bits)
    top = torch.where(torch.isneginf(top), 0.0, top)
    return collectives.sum((bits - top).exp2()).log2() + top
