"""Jensen's gap: by how much the log of a mean of powers exceeds the mean of their exponents.

A loss over several positives is a log-sum-exp less a mean of scores. Where the positives agree
the two are nearly equal, so the mean has to come from the very dot products that the powers came
from: taken from the sums of classes instead, the rounding of a matrix product stayed in their
difference (fp32, four rows a class, scale 14.3: up to 6 times the error of the plain formula).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Phi, Problem, Term
from .row_steps import LN2
from .vectors import ChannelVectors, ScaledScores, Sides, TermVectors, Vectors


def score_sums(problem: Problem, scores: ScaledScores) -> TermVectors | None:
    """Room for the sums of the scores that the last channel keeps, if anybody asked for its gap.

    One scale for all pairs is left out until the sums are in: no product has to be rounded.
    """
    if not problem.gaps:
        return None
    term = Term(Phi.IDENTITY, problem.reductions[-1].pairs)
    scale = scores.scale if scores.row_scale is None else scores.row_scale
    own = scale if isinstance(scale, Tensor) and scale.dim() else 1.0
    return TermVectors(problem, term, ScaledScores(own, None, None))


def gaps(
    problem: Problem, scores: ScaledScores, last: Vectors, summed: TermVectors | None
) -> Sides:
    """ln(mean of e^S) - mean of S over the pairs of the last channel; 0 for fewer than two."""
    if summed is None:
        return Sides()
    assert isinstance(last, ChannelVectors)
    scale = scores.scale if scores.row_scale is None else 1.0

    def gap(bits: Tensor | None, sums: Tensor | None, counts: Tensor | None) -> Tensor | None:
        if counts is None or bits is None or sums is None:
            return None
        number = counts.clamp(min=1).double()
        difference = bits * LN2 - number.log() - sums * scale / number
        return torch.where(counts > 1, difference, 0.0).to(problem.dtype)

    return Sides(
        gap(last.bits.rows, summed.sums.rows, problem.row_counts),
        gap(last.bits.cols, summed.sums.cols, problem.col_counts),
    )


def add_gap_gradients(
    problem: Problem, last: Vectors, rows: Tensor | None, cols: Tensor | None
) -> None:
    """The gaps' share of the last channel's upstream gradients.

    d gap_i / dS_ij is the softmax over the pairs less 1 / count_i: the first is that of the
    log-sum-exp, the second one number for all pairs of the row. Both meet in G, pair by pair,
    because their sums over the pairs nearly cancel.
    """
    assert isinstance(last, ChannelVectors)
    last.lines = Sides()
    for side, grad, counts in (
        ("rows", rows, problem.row_counts),
        ("cols", cols, problem.col_counts),
    ):
        if grad is None or counts is None:
            continue
        own = getattr(last.upstream, side)
        grad = torch.where(counts > 1, grad, 0.0)
        setattr(last.upstream, side, grad if own is None else own + grad)
        setattr(last.lines, side, (-grad / counts.clamp(min=1)).to(last.coefficients))
    if problem.triangle:
        last.lines.cols = last.lines.rows
