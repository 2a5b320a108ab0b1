"""The losses of rows from their stats and the dot products of their positives, and the slopes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import triton
import triton.language as tl

from .maps import softplus_and_sigmoid


@dataclass(frozen=True, eq=False)
class Rule:
    """Functions known when kernels are compiled: ``own`` gives what the positive's score adds to a
    row's loss, and its slope; ``side`` what a stat adds, and the slopes of stat and score.
    """

    own: Any
    side: Any

    def __repr__(self) -> str:
        """As Predicate has it: what compiled kernels are kept by."""
        return f"Rule({self.own.cache_key}, {self.side.cache_key})"


class Scores(NamedTuple):
    """What the positives' scores are made of: their dot products, their columns, the scale, fp64,
    one for all or one a row; biases, fp64, each in a tuple that is empty without.
    """

    dots: Any
    columns: Any
    scale: Any
    row_bias: Any
    col_bias: Any


class Rows(NamedTuple):
    """What else a row's loss reads: its stats; weights and factors of the positive's score, in
    tuples that are empty without; how many rows the mean is over, where the device knows.
    """

    stats: Any
    weights: Any
    omega: Any
    count: Any


class Outputs(NamedTuple):
    """The loss of all rows, or of each; the sums of each program, fp64, if there are several; the
    slopes of stats, and of the positives' scores. All in tuples that may be empty.
    """

    loss: Any
    parts: Any
    slopes: Any
    positive: Any


@triton.jit
def nothing(score):
    """The positive's score stands in the sides alone."""
    return 0.0 * score, 0.0 * score


@triton.jit
def softmax(lse, score, omega):
    """log(1 + e^(lse - score))"""
    value, rate = softplus_and_sigmoid(lse - score)
    return value, rate, -rate


@triton.jit
def decoupled(lse, score, omega):
    """lse - omega score; 0 of no pair"""
    there = lse != float("-inf")
    rate = tl.where(there, 1.0, 0.0).to(tl.float64)
    return tl.where(there, lse - omega * score, 0.0), rate, -omega * rate


@triton.jit
def attraction(score):
    """log(1 + e^-score)"""
    value, rate = softplus_and_sigmoid(-score)
    return value, -rate


@triton.jit
def total(stat, score, omega):
    """A sum, as it is."""
    return stat, 1.0 + 0.0 * score, 0.0 * score


@triton.jit(do_not_specialize=["n", "m", "row_step", "col_step"])
def row_loss(
    scores,
    rows,
    outputs,
    n,
    m,
    row_step,
    col_step,
    RULE: tl.constexpr,
    SHARE: tl.constexpr,
    MEAN: tl.constexpr,
    EACH: tl.constexpr,
    SKIP: tl.constexpr,
    SOME: tl.constexpr,
    PER_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The loss, SHARE times what RULE says of each row, in fp64: the sum or MEAN over rows, or
    EACH; and the slopes for a gradient of the loss of 1.

    SKIP: rows without a positive or a negative count for nothing. SOME may have no positive.
    PER_ROW: each row has its scale. Steps: from one bias to the next, 0 where all are one number.
    Several programs leave their sums in ``parts``.
    """
    factor = tl.zeros([1], tl.float64) + SHARE
    if MEAN:
        factor = factor / (tl.load(rows.count) if SKIP else n)
    sum_of_rows = tl.zeros([BLOCK], tl.float64)
    for start in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
        i = start + tl.arange(0, BLOCK)
        inside = i < n
        score = positive_score(scores, i, inside, m, row_step, col_step, PER_ROW)
        omega = tl.load(rows.omega[0] + i, mask=inside).to(tl.float64) if len(rows.omega) else 1.0
        counts = is_counted(scores.columns, rows.stats, i, inside, SKIP, SOME)
        weight = tl.zeros([BLOCK], tl.float64) + factor
        if len(rows.weights) == 1:
            weight *= tl.load(rows.weights[0] + i, mask=inside, other=0.0).to(tl.float64)
        value, down = RULE.own(score)
        for s in tl.static_range(len(rows.stats)):
            stat = tl.load(rows.stats[s] + i, mask=inside, other=0.0).to(tl.float64)
            more, rate, back = RULE.side(stat, score, omega)
            value += more
            down += back
            if s < len(outputs.slopes):
                put(outputs.slopes[s], i, inside, tl.where(counts, rate * weight, 0.0))
        if len(outputs.positive) == 1:
            put(outputs.positive[0], i, inside, tl.where(counts, down * weight, 0.0))
        value = tl.where(counts, value * weight, 0.0)
        if EACH:
            put(outputs.loss[0], i, inside, value)
        else:
            sum_of_rows += value
    if len(outputs.parts) == 1:
        tl.store(outputs.parts[0] + tl.program_id(0), tl.sum(sum_of_rows, 0))
    elif len(outputs.loss) == 1 and not EACH:
        tl.store(outputs.loss[0], tl.sum(sum_of_rows, 0).to(outputs.loss[0].dtype.element_ty))


@triton.jit
def positive_score(scores, i, inside, m, row_step, col_step, PER_ROW: tl.constexpr):
    """Scores of rows' positives, 0 where there is none; NaN instead of infinite."""
    column = tl.load(scores.columns + i, mask=inside, other=-1)
    paired = column >= 0
    scale = tl.load(scores.scale + i, mask=inside) if PER_ROW else tl.load(scores.scale)
    score = tl.load(scores.dots + i, mask=inside, other=0.0).to(tl.float64) * scale
    if len(scores.row_bias) == 1:
        score += tl.load(scores.row_bias[0] + i * row_step, mask=inside, other=0.0)
    if len(scores.col_bias) == 1:
        score += tl.load(
            scores.col_bias[0] + column * col_step, mask=paired & (column < m), other=0.0
        )
    return tl.where(paired, score + (score - score), 0.0)


@triton.jit
def is_counted(columns, stats, i, inside, SKIP: tl.constexpr, SOME: tl.constexpr):
    """Rows that are not empty; without SKIP those that have a positive."""
    counts = inside
    if SOME:
        counts = counts & (tl.load(columns + i, mask=inside, other=-1) >= 0)
    if SKIP:
        for s in tl.static_range(len(stats)):
            counts = counts & (tl.load(stats[s] + i, mask=inside, other=0.0) != float("-inf"))
    return counts


@triton.jit(do_not_specialize=["n"])
def count_rows(columns, stats, n, count, SOME: tl.constexpr, BLOCK: tl.constexpr):
    """How many rows are not empty, at least 1, fp64; one program."""
    found = tl.zeros([BLOCK], tl.float64)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        found += tl.where(is_counted(columns, stats, i, i < n, True, SOME), 1.0, 0.0)
    tl.store(count, tl.maximum(tl.sum(found, 0), 1.0))


@triton.jit(do_not_specialize=["count"])
def add_up(parts, count, loss, BLOCK: tl.constexpr):
    """The loss from the sums of programs; one program."""
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(parts + i, mask=i < count, other=0.0)
    tl.store(loss, tl.sum(total, 0).to(loss.dtype.element_ty))


@triton.jit
def put(vector, i, inside, value):
    """Store in the vector's dtype."""
    tl.store(vector + i, value.to(vector.dtype.element_ty), mask=inside)
