"""What passes between both passes and the kernels: values, all of tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Vectors = tuple[Tensor, ...]
MaybeVectors = tuple[Tensor | None, ...]


class State(NamedTuple):
    """What a backward pass finds of the forward pass, beside the tensors of the problem.

    Attributes:
        row_bits: log-sum-exps of rows in bits (log2), fp64, one vector a log-sum-exp.
        col_bits: those of columns; empty where columns are not reduced, or are the rows of a
            triangle.
        row_tops: on a GPU, what the general form's powers are taken relative to: the largest
            exponent of each row, in the compute dtype.
        col_tops: likewise of columns.
        shifts: the one shift of all exponents of each log-sum-exp, in bits; NaN where each row and
            column has its own.
        flag: on a GPU, whether the general form took the place of the fixed shifts [1], int32.
        positive: dot products of the rows with their positives [N].
        kept: dot products of blocks that are not computed again, where their plan says.
        arena: of a loss of rows of one block, all of the above but ``kept`` in one piece of memory,
            which its BlockLoss knows the layout of.
        powers: all powers of a small problem, from the pass in plain torch, fp64 [N, M].
    """

    row_bits: Vectors = ()
    col_bits: Vectors = ()
    row_tops: Vectors = ()
    col_tops: Vectors = ()
    shifts: Tensor | None = None
    flag: Tensor | None = None
    positive: Tensor | None = None
    kept: Tensor | None = None
    arena: Tensor | None = None
    powers: Tensor | None = None


class Reduced(NamedTuple):
    """What the forward pass of a kernel comes to.

    Attributes:
        rows: the value of each row, one vector a stat; empty where rows are not reduced.
        cols: of each column, likewise; empty in a triangle.
        row_count: how many kept scores of the first stat lie above the rows' thresholds.
        col_count: the same of columns.
        row_scores: sums of the dot products that the last stat keeps, each times its row's
            scale where they have one each, fp64; for the gap.
        col_scores: the same of columns.
        state: for the backward pass.
        loss: of a rule of rows, from a backend that makes it of the stats.
        slopes: the gradients of the stats for a gradient of this loss of 1.
    """

    rows: Vectors
    cols: Vectors
    row_count: Tensor | None
    col_count: Tensor | None
    row_scores: Tensor | None
    col_scores: Tensor | None
    state: State
    loss: Tensor | None = None
    slopes: Upstream | None = None


class Upstream(NamedTuple):
    """Gradients of the loss with respect to the stats; None for one that has none.

    Attributes:
        rows: of each stat's rows.
        cols: of each stat's columns; in a triangle None.
        positive: of the positives' scores; zero where a row has none.
        row_line: what each pair that the last stat keeps has in G besides, one number a row.
        col_line: one number a column.
        of_loss: the gradient of a loss of rows, 0-d, that all others are still to be multiplied by;
            None is 1.
    """

    rows: MaybeVectors
    cols: MaybeVectors
    positive: Tensor | None = None
    row_line: Tensor | None = None
    col_line: Tensor | None = None
    of_loss: Tensor | None = None

    @property
    def of_stats(self) -> bool:
        """Whether any stat has a gradient; the positives alone need no weights of all pairs."""
        return any(grad is not None for grad in (*self.rows, *self.cols))
