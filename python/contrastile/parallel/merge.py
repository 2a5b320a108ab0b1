"""The sums of shards and of ranks as one: vectors only, in fp64."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Rows over all shards, columns shard beside shard."""
    ordered = [sums for _, sums in sorted(parts, key=lambda part: part[0].start)]
    if len(ordered) == 1:
        return ordered[0]
    fold = torch.logaddexp2 if log_sums else torch.add

    def beside(vectors: Sequence[Tensor | None]) -> Tensor | None:
        there = [vector for vector in vectors if vector is not None]
        return torch.cat(there) if there else None

    def added(vectors: Sequence[Tensor | None]) -> Tensor | None:
        first, *others = vectors
        for other in others:
            first = None if first is None or other is None else first + other
        return first

    rows, *others = [sums.rows for sums in ordered]
    for other in others:
        rows = tuple([fold(a, b) for a, b in zip(rows, other, strict=True)])
    cols = tuple([torch.cat(own) for own in zip(*(sums.cols for sums in ordered), strict=True)])
    return Sums(
        rows,
        cols,
        added([sums.dots for sums in ordered]),
        added([sums.positive for sums in ordered]),
        added([sums.row_scores for sums in ordered]),
        beside([sums.col_scores for sums in ordered]),
        added([sums.row_count for sums in ordered]),
        beside([sums.col_count for sums in ordered]),
    )


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
