"""Channels (one log-sum-exp each) and terms (one pair sum each): what is made of the scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from torch import Tensor

from .pairs import Pairs
from .part import Part


@dataclass(frozen=True, eq=False)
class Channel:
    r"""One log-sum-exp over the kept pairs.

    .. math:: \ell_i = \log \sum_{j: (i,j) \in pairs} \exp(factor \cdot S_{ij} + \omega_{ij}),\quad
              \omega_{ij} = u_i + v_j + \sum_c w_c [(i,j) \in c]

    Args:
        pairs: the kept pairs; None keeps all.
        factor: exponent multiplier, may be negative, not zero.
        row_log_weight: u [N], finite; no gradient.
        col_log_weight: v [M], finite; no gradient.
        class_log_weights: (pairs, w) each; w finite.
    """

    pairs: Pairs | None = None
    factor: float = 1.0
    row_log_weight: Tensor | None = None
    col_log_weight: Tensor | None = None
    class_log_weights: tuple[tuple[Pairs, float], ...] = ()

    def among(self, part: Part) -> Channel:
        """The same of some rows and columns alone."""
        rows, cols = self.row_log_weight, self.col_log_weight
        return replace(
            self,
            pairs=None if self.pairs is None else self.pairs.among(part),
            row_log_weight=None if rows is None else part.of_rows(rows),
            col_log_weight=None if cols is None else part.of_cols(cols),
            class_log_weights=tuple((own.among(part), w) for own, w in self.class_log_weights),
        )


class Phi(IntEnum):
    """The function a pair sum applies to each score."""

    SOFTPLUS = 0
    RELU = 1
    IDENTITY = 2
    SQUARE = 3
    SIGMOID = 4


@dataclass(frozen=True, eq=False)
class Term:
    r"""One sum of a function of the kept scores.

    .. math:: F_i = \sum_{j: (i,j) \in pairs} \phi(factor \cdot S_{ij} - \theta_i)

    Args:
        phi: softplus, relu, identity, square or sigmoid.
        pairs: the kept pairs; None keeps all.
        factor: multiplies the score inside phi; not zero.
        threshold: theta [N]; no gradient.
    """

    phi: Phi
    pairs: Pairs | None = None
    factor: float = 1.0
    threshold: Tensor | None = None

    def among(self, part: Part) -> Term:
        """The same of some rows and columns alone."""
        return replace(
            self,
            pairs=None if self.pairs is None else self.pairs.among(part),
            threshold=None if self.threshold is None else part.of_rows(self.threshold),
        )
