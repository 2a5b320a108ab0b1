"""Jensen's gap: by how much the log of a mean of powers exceeds the mean of their exponents.

A loss over several positives is a log-sum-exp less a mean of scores. Where the positives agree
the two are nearly equal, so the mean has to come from the very dot products that the powers came
from: taken from the sums of classes instead, the rounding of a matrix product stayed in their
difference (fp32, four rows a class, scale 14.3: up to 6 times the error of the plain formula).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .job import Job
from .row_steps import LN2
from .state import MaybeVectors, Reduced, Upstream, Vectors

Pair = tuple[Tensor | None, Tensor | None]


def gaps(job: Job, reduced: Reduced) -> Pair:
    """ln(mean of e^S) - mean of S over the pairs of the last log-sum-exp, of rows and of columns;
    0 for fewer than two pairs.
    """
    spec, dtype, (of_rows, of_cols) = job.spec, job.sizes.dtype, scores_of(job, reduced)

    def of_side(bits: Vectors, sums: Tensor | None, slot: int) -> Tensor | None:
        counts = job.tensor(slot)
        return None if counts is None or sums is None else gap(bits[-1], sums, counts, dtype)

    return (
        of_side(reduced.state.row_bits, of_rows, spec.row_counts),
        of_side(reduced.state.col_bits, of_cols, spec.col_counts),
    )


def scores_of(job: Job, reduced: Reduced) -> Pair:
    """Sums of the scores that gaps are of, fp64, of rows and of columns."""
    scale = scale_of_sums(job)
    rows, cols = (
        None if sums is None else sums * scale for sums in (reduced.row_scores, reduced.col_scores)
    )
    return rows, cols


def scale_of_sums(job: Job) -> float | Tensor:
    """What turns the sums that the pass makes for gaps into sums of scores."""
    return job.scores.scale if job.scores.row_scale is None else 1.0


def gap(bits: Tensor, sums: Tensor, counts: Tensor, dtype: torch.dtype) -> Tensor:
    """From log-sum-exps in bits and sums of scores, both fp64, over ``counts`` pairs."""
    number = counts.clamp(min=1).double()
    difference = bits * LN2 - number.log() - sums / number
    return torch.where(counts > 1, difference, 0.0).to(dtype)


def with_gaps(job: Job, upstream: Upstream, of_gaps: Pair) -> Upstream:
    """The upstream gradients with those of the gaps, of rows and of columns.

    d gap_i / dS_ij is the softmax over the pairs less 1 / count_i: the first is that of the
    log-sum-exp, the second one number for all pairs of the row. Both meet in G, pair by pair,
    because their sums over the pairs nearly cancel.
    """
    spec, dtype = job.spec, job.sizes.dtype
    sides = []
    for own, grad, slot in (
        (upstream.rows, of_gaps[0], spec.row_counts),
        (upstream.cols, of_gaps[1], spec.col_counts),
    ):
        counts = job.tensor(slot)
        line: Tensor | None = None
        if grad is not None and counts is not None:
            grad, line = of_pairs(grad, counts, dtype)
            own = _with_last(own, grad)
        sides.append((own, line))
    (rows, row_line), (cols, col_line) = sides
    return Upstream(
        rows, cols, upstream.positive, row_line, row_line if spec.triangle else col_line
    )


def of_pairs(grad: Tensor, counts: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The gradient of a gap, 0 for fewer than two pairs; and what each of its pairs has of it."""
    grad = torch.where(counts > 1, grad, 0.0)
    return grad, (-grad / counts.clamp(min=1)).to(dtype)


def _with_last(vectors: MaybeVectors, more: Tensor) -> MaybeVectors:
    """The vectors with ``more`` added to the last."""
    *others, last = vectors
    return (*others, more if last is None else last + more)
