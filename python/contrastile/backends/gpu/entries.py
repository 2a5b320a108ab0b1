"""The upstream gradients of stats, and where their coefficients in G go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...engine.state import State, Upstream
from ...problem.spec import Spec

ABSENT = -1


class Entry(NamedTuple):
    """One upstream gradient.

    Attributes:
        grad: with respect to a stat of rows or of columns.
        of_columns: whose it is.
        channel: which log-sum-exp's; ABSENT of what is multiplied by the unit alone.
        factor: of the stat.
        bits: the log-sum-exps.
        tops: the shifts of the general form.
        out: room for the coefficients.
    """

    grad: Tensor
    of_columns: bool
    channel: int
    factor: float
    bits: Tensor | None
    tops: Tensor | None
    out: Tensor


Pair = tuple[Entry | None, Entry | None]


class Entries(NamedTuple):
    """Of rows and of columns; in a triangle columns have what rows have.

    Attributes:
        stats: of each stat.
        lines: what every kept pair of the last stat has beside its power.
        positive: the gradient of the positives' scores.
        of_loss: what all are still to be multiplied by, 0-d.
    """

    stats: tuple[Pair, ...]
    lines: Pair
    positive: Tensor | None
    of_loss: Tensor | None

    @staticmethod
    def of(spec: Spec, state: State, upstream: Upstream) -> Entries:
        """Of upstream gradients that are contiguous and of the compute dtype."""
        found = []
        for place, stat in enumerate(spec.stats):
            channel = place if stat.phi is None else ABSENT
            rows = cols = None
            if (grad := upstream.rows[place]) is not None:
                rows = _entry(grad, False, channel, stat.factor, state.row_bits, state.row_tops)
            if spec.triangle:
                cols = rows
            elif upstream.cols and (grad := upstream.cols[place]) is not None:
                cols = _entry(grad, True, channel, stat.factor, state.col_bits, state.col_tops)
            found.append((rows, cols))
        return Entries(tuple(found), _lines(spec, upstream), upstream.positive, upstream.of_loss)

    def each(self) -> Iterator[Entry]:
        """Every one once, lines last."""
        for rows, cols in (*self.stats, self.lines):
            if rows is not None:
                yield rows
            if cols is not None and cols is not rows:
                yield cols


def _entry(
    grad: Tensor,
    of_columns: bool,
    channel: int,
    factor: float,
    bits: tuple[Tensor, ...],
    tops: tuple[Tensor, ...],
) -> Entry:
    out = torch.empty_like(grad)
    if channel == ABSENT:
        return Entry(grad, of_columns, ABSENT, factor, None, None, out)
    return Entry(grad, of_columns, channel, factor, bits[channel], tops[channel], out)


def _lines(spec: Spec, upstream: Upstream) -> Pair:
    rows = cols = None
    if upstream.row_line is not None:
        rows = _entry(upstream.row_line, False, ABSENT, 1.0, (), ())
    if spec.triangle:
        return rows, rows
    if upstream.col_line is not None:
        cols = _entry(upstream.col_line, True, ABSENT, 1.0, (), ())
    return rows, cols
