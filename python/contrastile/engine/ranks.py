"""Counts of the scores above a threshold: what they are compared with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..problem.spec import NONE
from .job import Job
from .positives import dots, positive_scores


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
    of_rows = _as_argument(job, rows) if spec.rows else None
    if spec.triangle:
        return Thresholds(of_rows, of_rows)
    return Thresholds(of_rows, _as_argument(job, cols) if spec.columns else None)


def _as_argument(job: Job, threshold: Tensor | None) -> Tensor | None:
    """What the first stat's argument is for a score as large as the threshold."""
    if threshold is None:
        return None
    first = job.spec.stats[0]
    value = (threshold.detach().double() * job.arguments[0].per_score).to(job.sizes.dtype)
    if first.phi is not None and first.row_offset != NONE:
        value = value - job.tensors[first.row_offset].to(job.sizes.dtype)
    return value
