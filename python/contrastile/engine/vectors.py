"""The O(N + M) vectors of a reduction: its coefficients, its running sums, those of G."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..problem import Channel, Problem, Term
from .row_steps import LOG2E, channel_gradients, log_sums

WHOLE = slice(None)


def part(vector: Tensor, span: slice) -> Tensor:
    """The entries ``span``; the vector itself for ``WHOLE``, as a view costs microseconds."""
    return vector if span is WHOLE else vector[span]


@dataclass
class Sides:
    """One vector for rows and one for columns; in the self mode both are the same tensor."""

    rows: Tensor | None = None
    cols: Tensor | None = None

    @property
    def absent(self) -> bool:
        """Whether there is neither."""
        return self.rows is None and self.cols is None

    def each(self) -> list[Tensor]:
        """The vectors that exist."""
        return [vector for vector in (self.rows, self.cols) if vector is not None]


@dataclass
class ScaledScores:
    """Detached numbers that turn a dot product into a score: scale and biases.

    A scale for all rows is a float, or a 0-d tensor where reading it would halt the device.
    """

    scale: float | Tensor
    row_bias: Tensor | None
    col_bias: Tensor | None

    @classmethod
    def of(
        cls,
        scale: float | Tensor,
        row_bias: Tensor | None,
        col_bias: Tensor | None,
        on_host: bool = True,
    ) -> ScaledScores:
        """A scale for all rows becomes a float, if it may be read; all else fp64 tensors."""
        if not isinstance(scale, Tensor):
            scale = float(scale)
        elif scale.numel() != 1:
            scale = scale.detach().double()
        else:
            scale = float(scale) if on_host else scale.detach().double().view(())
        return cls(
            scale,
            None if row_bias is None else row_bias.detach().double(),
            None if col_bias is None else col_bias.detach().double(),
        )

    @property
    def row_scale(self) -> Tensor | None:
        """The scale of each row, if they have one each."""
        return self.scale if isinstance(self.scale, Tensor) and self.scale.dim() else None


def rounded(value: float) -> float:
    """A number as fp32 holds it; infinite beyond its range."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _offset(dtype: torch.dtype, *parts: tuple[float, Tensor | None]) -> Tensor | None:
    """The sum of factor * vector over the vectors that exist, formed in fp64; None without any."""
    total: Tensor | None = None
    for factor, vector in parts:
        if vector is not None:
            part = vector.double() * factor
            total = part if total is None else total + part
    return None if total is None else total.to(dtype)


class ChannelVectors:
    """A channel's exponent ``y = S (hi + lo) + row_offset + col_offset`` in bits, and its sums.

    The coefficient is kept as a sum of two numbers: rounded to one fp32 it would shift every
    exponent of a row the same way, and the positive, scaled elsewhere, would not follow.
    """

    def __init__(self, problem: Problem, channel: Channel, scores: ScaledScores) -> None:
        dtype = problem.dtype
        self.reduction = channel
        self.dtype = dtype
        self.unit = channel.factor * LOG2E
        self.coef_hi: float | Tensor
        self.coef_lo: float | Tensor
        if isinstance(scores.scale, float):
            exact = scores.scale * self.unit
            self.coef_hi = exact if dtype == torch.float64 else rounded(exact)
            self.coef_lo = exact - self.coef_hi
        else:
            coef = scores.scale * self.unit
            self.coef_hi = coef.to(dtype)
            self.coef_lo = (coef - self.coef_hi).to(dtype)
        self.row_offset = _offset(
            dtype, (self.unit, scores.row_bias), (LOG2E, channel.row_log_weight)
        )
        self.col_offset = _offset(
            dtype, (self.unit, scores.col_bias), (LOG2E, channel.col_log_weight)
        )
        # The one shift of all exponents, in bits; or one for each row and column.
        self.shift: float | None = None
        self.shifts = Sides()
        self.sums = _sides(problem, 0.0, torch.float64)
        self.bits = Sides()
        # Log-sum-exps that the kernel took itself.
        self.ready = Sides()
        # What the kernel reads the coefficients of G in.
        self.coefficients = dtype
        self.lse = Sides()
        self.grads = Sides()
        # What every kept pair of a row, or of a column, has in G beside its powers.
        self.lines = Sides()
        self.upstream = Sides()

    def use_running_shift(self, problem: Problem) -> None:
        """Each row and column has its own shift, the largest exponent so far.

        What was summed with one shift for all keeps it until larger exponents come.
        """
        self.shifts = _sides(problem, -math.inf, problem.dtype)
        if self.shift is not None:
            for shifts, sums in zip(self.shifts.each(), self.sums.each(), strict=True):
                shifts.masked_fill_(sums > 0, self.shift)
            self.shift = None

    def row_stats(self, span: slice) -> Tensor:
        """The log-sum-exp in nats of the rows ``span``; -inf where no pair was kept."""
        return self._log_sums("rows", span)

    def col_stats(self, span: slice) -> Tensor:
        """The log-sum-exp in nats of the columns ``span``."""
        return self._log_sums("cols", span)

    def _log_sums(self, side: str, span: slice) -> Tensor:
        ready = getattr(self.ready, side)
        if ready is not None:
            # It becomes an output: kept here, it would keep the graph that keeps the run.
            setattr(self.ready, side, None)
            return ready
        sums, shifts = getattr(self.sums, side), getattr(self.shifts, side)
        shift = self.shift if shifts is None else part(shifts, span)
        bits = getattr(self.bits, side)
        if bits is None:
            bits = torch.empty_like(sums)
            setattr(self.bits, side, bits)
        if shift is None:
            part(bits, span).fill_(-math.inf)
            return part(bits, span).to(self.dtype, copy=True)
        return log_sums(shift, part(sums, span), part(bits, span), self.dtype)

    def allot_gradients(self, problem: Problem, rows: bool, cols: bool) -> None:
        """Memory for the coefficients of G = sum over sides of grad 2^(y - lse)."""
        self.lse = _allot(problem, rows, cols, self.coefficients)
        self.grads = _allot(problem, rows, cols, self.coefficients)

    def set_gradients(self, side: str, span: slice, grad: Tensor) -> None:
        """Coefficients of G from the stats' upstream gradients."""
        lse, lse_out, grad_out = (
            part(getattr(vectors, side), span) for vectors in (self.bits, self.lse, self.grads)
        )
        channel_gradients(lse, grad, self.reduction.factor, self.shift, lse_out, grad_out)


class TermVectors:
    """A pair sum's argument ``x = S coef + row_offset + col_offset``, and its sums."""

    def __init__(self, problem: Problem, term: Term, scores: ScaledScores) -> None:
        dtype = problem.dtype
        self.reduction = term
        self.dtype = dtype
        self.unit = term.factor
        self.coef: float | Tensor
        if isinstance(scores.scale, float):
            self.coef = scores.scale * term.factor
        else:
            self.coef = (scores.scale * term.factor).to(dtype)
        self.row_offset = _offset(dtype, (term.factor, scores.row_bias), (-1.0, term.threshold))
        self.col_offset = _offset(dtype, (term.factor, scores.col_bias))
        self.sums = _sides(problem, 0.0, torch.float64)
        self.grads = Sides()
        self.upstream = Sides()

    def row_stats(self, span: slice) -> Tensor:
        """The sums of the rows ``span``; a copy: as an output the sums would keep the run alive."""
        assert self.sums.rows is not None
        return part(self.sums.rows, span).to(self.dtype, copy=True)

    def col_stats(self, span: slice) -> Tensor:
        """The sums of the columns ``span``."""
        assert self.sums.cols is not None
        return part(self.sums.cols, span).to(self.dtype, copy=True)

    def allot_gradients(self, problem: Problem, rows: bool, cols: bool) -> None:
        """Memory for the coefficients of G = factor phi'(x) (row_grad + col_grad)."""
        self.grads = _allot(problem, rows, cols, self.dtype)

    def set_gradients(self, side: str, span: slice, grad: Tensor) -> None:
        """Coefficients of G from the upstream gradients of the sums."""
        part(getattr(self.grads, side), span).copy_(grad)


Vectors = ChannelVectors | TermVectors


def form_coefficients(vectors: Vectors, problem: Problem) -> None:
    """The coefficients of G that the upstream gradients ask for."""
    rows, cols = vectors.upstream.rows, vectors.upstream.cols
    vectors.allot_gradients(problem, rows is not None, cols is not None)
    for side, grad in (("rows", rows), ("cols", cols)):
        if grad is not None:
            vectors.set_gradients(side, WHOLE, grad)


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


def _allot(problem: Problem, rows: bool, cols: bool, dtype: torch.dtype) -> Sides:
    """Vectors for the sides that have a gradient, yet to be filled."""
    device = problem.device
    first = torch.empty(problem.n, dtype=dtype, device=device) if rows else None
    if problem.triangle:
        return Sides(first, first)
    return Sides(first, torch.empty(problem.m, dtype=dtype, device=device) if cols else None)
