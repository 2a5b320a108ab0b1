"""The loss of a row as a named function of its stats, so that it can be part of the pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .channels import Channel, Term
from .checks import InputError, check_choice, check_integers, check_vector

SEVERAL = "several"
REDUCTIONS = ("mean", "sum", "none")


class Reads(NamedTuple):
    """What a rule reads: at least and at most so many reductions of a kind, and whose."""

    kind: type[Channel] | type[Term]
    least: int
    most: int
    columns: bool


READS = {
    "softmax": Reads(Channel, 1, 1, columns=True),
    "decoupled": Reads(Channel, 1, 1, columns=False),
    "sigmoid": Reads(Term, 1, 3, columns=False),
    SEVERAL: Reads(Channel, 2, 2, columns=True),
}


class RowLoss(NamedTuple):
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


def check_row_loss(
    caller: str,
    loss: RowLoss,
    reductions: Sequence[Channel] | Sequence[Term],
    sides: tuple[int | None, int | None],
    positives: bool,
) -> None:
    """``loss`` can be formed of these reductions over rows and columns, None for a side without."""
    if not isinstance(loss, RowLoss):
        raise TypeError(f"{caller}: row_loss must be a RowLoss, got {type(loss).__name__}")
    check_choice(caller, "the rule of row_loss", loss.rule, READS)
    check_choice(caller, "the reduction of row_loss", loss.reduction, REDUCTIONS)
    rule, reads, (n, m) = loss.rule, READS[loss.rule], sides
    kind = reads.kind.__name__
    if not reads.least <= len(reductions) <= reads.most or type(reductions[0]) is not reads.kind:
        raise InputError(f"{caller}: the rule {rule!r} reads {reads.most} {kind} at most")
    if m is not None and not reads.columns:
        raise InputError(f"{caller}: the rule {rule!r} is of rows alone; leave out columns")
    if rule == SEVERAL:
        for name, count, length in (
            ("row_count", loss.row_count, n),
            ("col_count", loss.col_count, m),
        ):
            if (count is None) != (length is None):
                raise InputError(
                    f"{caller}: the rule {rule!r} needs {name} where that side is reduced"
                )
            if count is not None and length is not None:
                check_integers(caller, name, count, length)
        length = (n or 0) + (m or 0)
    else:
        if not positives:
            raise InputError(f"{caller}: the rule {rule!r} needs positives")
        if n is None or m not in (None, n):
            raise InputError(f"{caller}: the rule {rule!r} needs rows, and as many columns if any")
        length = n
    for name, vector in (("weights", loss.weights), ("omega", loss.omega)):
        if vector is not None and check_vector(caller, name, vector, length).requires_grad:
            raise InputError(f"{caller}: {name} of a row_loss get no gradient; use .detach()")
