"""The O(N + M) vectors of a reduction: its coefficients, its running sums, those of G."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..problem import Channel, Problem, Term
from .row_steps import LOG2E, channel_gradients, log_sums


@dataclass
class Sides:
    """One vector for rows and one for columns; in the self mode both are the same tensor."""

    rows: Tensor | None = None
    cols: Tensor | None = None


@dataclass
class ScaledScores:
    """Detached numbers that turn a dot product into a score: scale and biases."""

    scale: float | Tensor
    row_bias: Tensor | None
    col_bias: Tensor | None

    @classmethod
    def of(
        cls, scale: float | Tensor, row_bias: Tensor | None, col_bias: Tensor | None
    ) -> ScaledScores:
        """A scalar scale becomes a float; all else fp64 vectors."""
        if isinstance(scale, Tensor):
            scale = float(scale) if scale.numel() == 1 else scale.detach().double()
        return cls(
            scale,
            None if row_bias is None else row_bias.detach().double(),
            None if col_bias is None else col_bias.detach().double(),
        )


def _offset(*parts: tuple[float, Tensor | None]) -> Tensor | None:
    """The sum of factor * vector over the vectors that exist, in fp64."""
    total: Tensor | None = None
    for factor, vector in parts:
        if vector is not None:
            part = vector.double() * factor
            total = part if total is None else total + part
    return total


class ChannelVectors:
    """A channel's exponent ``y = S (hi + lo) + row_offset + col_offset`` in bits, and its sums.

    The coefficient is kept as a sum of two numbers: rounded to one fp32 it would shift every
    exponent of a row the same way, and the positive, scaled elsewhere, would not follow.
    """

    def __init__(self, problem: Problem, channel: Channel, scores: ScaledScores) -> None:
        n, dtype, device = problem.n, problem.dtype, problem.device
        self.reduction = channel
        unit = channel.factor * LOG2E
        if isinstance(scores.scale, float):
            exact = scores.scale * unit
            hi = exact if dtype == torch.float64 else float(np.float32(exact))
            self.coef_hi = torch.full((n,), hi, dtype=dtype, device=device)
            self.coef_lo = torch.full((n,), exact - hi, dtype=dtype, device=device)
            self.largest_coef = abs(exact)
        else:
            coef = scores.scale * unit
            self.coef_hi = coef.to(dtype)
            self.coef_lo = (coef - self.coef_hi).to(dtype)
            self.largest_coef = float(coef.abs().max()) if n else 0.0
        row_offset = _offset((unit, scores.row_bias), (LOG2E, channel.row_log_weight))
        col_offset = _offset((unit, scores.col_bias), (LOG2E, channel.col_log_weight))
        self.row_offset = (
            torch.zeros(n, dtype=dtype, device=device)
            if row_offset is None
            else row_offset.to(dtype)
        )
        self.col_offset = None if col_offset is None else col_offset.to(dtype)
        self.has_row_offset = row_offset is not None
        self.unit = unit
        self.shift: float | None = None
        self.shifts = _sides(problem, -math.inf, dtype)
        self.sums = _sides(problem, 0.0, torch.float64)
        self.lse = Sides()
        self.grads = Sides()

    def use_shift(self, shift: float) -> None:
        """Sums are taken relative to one fixed shift (bits): every exponent is representable."""
        self.shift = shift
        for side in (self.shifts.rows, self.shifts.cols):
            if side is not None:
                side.fill_(shift)

    def row_stats(self, span: slice) -> Tensor:
        """The log-sum-exp in nats of the rows ``span``; -inf where no pair was kept."""
        return _log_sum_exp(self.shifts.rows, self.sums.rows, span)

    def col_stats(self, span: slice) -> Tensor:
        """The log-sum-exp in nats of the columns ``span``."""
        return _log_sum_exp(self.shifts.cols, self.sums.cols, span)

    def allot_gradients(self, problem: Problem, rows: bool, cols: bool) -> None:
        """Memory for the coefficients of G = sum over sides of grad 2^(y - lse)."""
        self.lse = _allot(problem, rows, cols)
        self.grads = _allot(problem, rows, cols)

    def set_gradients(self, side: str, span: slice, lse: Tensor, grad: Tensor) -> None:
        """Coefficients of G from the stats and their upstream gradients."""
        lse_out, grad_out = getattr(self.lse, side), getattr(self.grads, side)
        factor = self.reduction.factor
        channel_gradients(lse, grad, factor, self.shift, lse_out[span], grad_out[span])


class TermVectors:
    """A pair sum's argument ``x = S coef + row_offset + col_offset``, and its sums."""

    def __init__(self, problem: Problem, term: Term, scores: ScaledScores) -> None:
        n, dtype, device = problem.n, problem.dtype, problem.device
        self.reduction = term
        if isinstance(scores.scale, float):
            self.coef = torch.full((n,), scores.scale * term.factor, dtype=dtype, device=device)
        else:
            self.coef = (scores.scale * term.factor).to(dtype)
        row_offset = _offset((term.factor, scores.row_bias), (-1.0, term.threshold))
        col_offset = _offset((term.factor, scores.col_bias))
        self.row_offset = (
            torch.zeros(n, dtype=dtype, device=device)
            if row_offset is None
            else row_offset.to(dtype)
        )
        self.col_offset = None if col_offset is None else col_offset.to(dtype)
        self.unit = term.factor
        self.sums = _sides(problem, 0.0, torch.float64)
        self.grads = Sides()

    def row_stats(self, span: slice) -> Tensor:
        """The sums of the rows ``span``."""
        assert self.sums.rows is not None
        return self.sums.rows[span].to(self.coef.dtype)

    def col_stats(self, span: slice) -> Tensor:
        """The sums of the columns ``span``."""
        assert self.sums.cols is not None
        return self.sums.cols[span].to(self.coef.dtype)

    def allot_gradients(self, problem: Problem, rows: bool, cols: bool) -> None:
        """Memory for the coefficients of G = factor phi'(x) (row_grad + col_grad)."""
        self.grads = _allot(problem, rows, cols)

    def set_gradients(self, side: str, span: slice, total: Tensor, grad: Tensor) -> None:
        """Coefficients of G from the upstream gradients of the sums."""
        getattr(self.grads, side)[span] = grad


Vectors = ChannelVectors | TermVectors


@dataclass
class Counts:
    """How many kept scores of the first reduction lie above a threshold, per row and column."""

    thresholds: Sides = field(default_factory=Sides)
    counts: Sides = field(default_factory=Sides)


def make_vectors(problem: Problem, scores: ScaledScores) -> list[Vectors]:
    """The vectors of each reduction of the problem."""
    return [
        ChannelVectors(problem, r, scores)
        if isinstance(r, Channel)
        else TermVectors(problem, r, scores)
        for r in problem.reductions
    ]


def make_counts(problem: Problem, vectors: Vectors, positive: Tensor | None) -> Counts:
    """Thresholds in the unit of the first reduction's argument, and zeroed counts."""
    counts = Counts()
    if not problem.ranks:
        return counts
    rows = positive if problem.row_thresholds is None else problem.row_thresholds
    cols = positive if problem.col_thresholds is None else problem.col_thresholds
    if problem.triangle:
        cols = rows
    for name, wanted, threshold in (
        ("rows", problem.rows, rows),
        ("cols", problem.columns or problem.triangle, cols),
    ):
        if wanted and threshold is not None:
            bits = (threshold.double() * vectors.unit).to(problem.dtype)
            if isinstance(vectors, TermVectors) and vectors.reduction.threshold is not None:
                bits = bits - vectors.reduction.threshold.to(problem.dtype)
            setattr(counts.thresholds, name, bits)
            setattr(
                counts.counts, name, torch.zeros(len(bits), dtype=torch.int64, device=bits.device)
            )
    if problem.triangle:
        counts.counts.cols = counts.counts.rows
    return counts


def _sides(problem: Problem, value: float, dtype: torch.dtype) -> Sides:
    device = problem.device
    rows = torch.full((problem.n,), value, dtype=dtype, device=device) if problem.rows else None
    if problem.triangle:
        return Sides(rows, rows)
    cols = torch.full((problem.m,), value, dtype=dtype, device=device) if problem.columns else None
    return Sides(rows, cols)


def _allot(problem: Problem, rows: bool, cols: bool) -> Sides:
    """Zeroed vectors of the compute dtype for the sides that have a gradient."""
    dtype, device = problem.dtype, problem.device
    first = torch.zeros(problem.n, dtype=dtype, device=device) if rows else None
    if problem.triangle:
        return Sides(first, first)
    return Sides(first, torch.zeros(problem.m, dtype=dtype, device=device) if cols else None)


def _log_sum_exp(shifts: Tensor | None, sums: Tensor | None, span: slice) -> Tensor:
    assert shifts is not None and sums is not None
    return log_sums(shifts[span], sums[span])
