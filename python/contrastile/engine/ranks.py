"""Counts of the scores above a threshold: what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..problem.spec import NONE
from .job import Job
from .positives import dots, positive_scores

# Of a batch that holds each pair twice, D = 16 to 768, 30 % of the copies in fp32 and 20 % in bf16
# counted as above their positive without this, 2 % with 2 roundings.
ROUNDINGS = 8.0


class Thresholds(NamedTuple):
    """In the first stat's argument, where they are compared; None where nothing is counted.

    Attributes:
        rows: of each row.
        cols: of each column; in a triangle those of the rows.
    """

    rows: Tensor | None = None
    cols: Tensor | None = None


def positives_beforehand(job: Job) -> Tensor | None:
    """Room for the positives' dot products, which the blocks that hold them fill in.

    With ranks the dot products themselves: scores of the first block are compared with them.
    """
    columns, dtype = job.positives, job.sizes.dtype
    if columns is None:
        return None
    if job.spec.ranks and job.given:
        return job.positive
    if job.spec.ranks:
        return dots(job.query, job.key, None, columns, dtype)
    return job.scores_of_none()


def thresholds_of(job: Job, positive_dots: Tensor | None) -> Thresholds:
    """What ranks compare with: the thresholds that were given, or the positives."""
    spec = job.spec
    if not spec.ranks:
        return Thresholds()
    positive = positive_scores(job, positive_dots)
    rows, cols = (
        positive if slot == NONE else job.tensors[slot]
        for slot in (spec.row_thresholds, spec.col_thresholds)
    )
    of_rows, of_cols = job.arguments[0].row_offset, job.arguments[0].col_offset
    own = _as_argument(job, rows, [of_rows, _least(of_cols)]) if spec.rows else None
    if spec.triangle:
        return Thresholds(own, own)
    other = _as_argument(job, cols, [of_cols, _least(of_rows)]) if spec.columns else None
    return Thresholds(own, other)


def just_above(threshold: Tensor, *offsets: Tensor | None) -> Tensor:
    """What a score must exceed, to be above the threshold by more than its roundings.

    Equal scores are not above it, those of copies of the positive among them: score and threshold
    are rounded on their ways, and the positive's dot product is another sum. ``offsets``: parts of
    both, which are rounded too.
    """
    size = threshold.abs()
    for offset in offsets:
        if offset is not None:
            size = size + offset.abs()
    more = size * (ROUNDINGS * torch.finfo(threshold.dtype).eps)
    # Minus infinity, which all scores are above, and infinity are no number.
    return torch.where(size.isfinite(), threshold + more, threshold)


def _as_argument(
    job: Job, threshold: Tensor | None, offsets: Sequence[Tensor | None]
) -> Tensor | None:
    """What the first stat's argument is for a score just above the threshold."""
    if threshold is None:
        return None
    first, dtype = job.spec.stats[0], job.sizes.dtype
    value = (threshold.detach().double() * job.arguments[0].per_score).to(dtype)
    value = just_above(value, *(None if own is None else own.to(dtype) for own in offsets))
    if first.phi is not None and first.row_offset != NONE:
        value = value - job.tensors[first.row_offset].to(dtype)
    return value


def _least(offset: Tensor | None) -> Tensor | None:
    """The least of the other side's, which all scores of a line have: a bias of one column, such as
    that of a mask, rounds no score of the others.
    """
    return None if offset is None or not len(offset) else offset.abs().min()
