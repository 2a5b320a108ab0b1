"""The loss of a row as a named function of its stats, so that it can be part of the pass."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowLoss:
    r"""A loss that is summed over rows within the pass over the scores.

    Gradients then need no graph of small operations, and of one direction they are made while the
    scores of a row are still there: three products of N x M x D instead of four.

    Args:
        rule: "softmax", :math:`\log(1 + e^{\ell_i - p_i})` with the log-sum-exp :math:`\ell_i` of
            the negatives and the score :math:`p_i` of the positive, for each reduced side;
            "decoupled", :math:`\ell_i - \omega_i p_i`; "sigmoid", :math:`\log(1 + e^{-p_i})` plus
            all sums of the row; "several", with the log-sum-exps of negatives and of positives,
            of both reduced sides, one after the other (see engine/several.py).
        reduction: "mean" (over rows), "sum" or "none".
        share: multiplies the loss of each side.
        weights: [N], one a row.
        omega: :math:`\omega` [N].
        skip: the mean is over the rows that are not empty: those with a positive and a negative.
        some_without: positives may be -1; the loss of such a row is 0.
        shows: return the stats too, without gradients.
        row_count: [N], how many positives each row has, of "several".
        col_count: [M], likewise of columns.
    """

    rule: str
    reduction: str = "mean"
    share: float = 1.0
    weights: Tensor | None = None
    omega: Tensor | None = None
    skip: bool = False
    some_without: bool = False
    shows: bool = False
    row_count: Tensor | None = None
    col_count: Tensor | None = None
