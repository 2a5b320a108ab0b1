"""The coefficients of G on a CPU, from the gradients of the stats."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..engine.job import Job
from ..engine.row_steps import channel_gradients
from ..engine.spans import WHOLE, part
from ..engine.state import State, Upstream


class Coefficients(NamedTuple):
    """Of one stat: G = sum over sides of grad 2^(y - from), or factor phi'(x) (rows + cols).

    Attributes:
        row_from: of an exponent, what it is taken relative to, where there is no common shift.
        row_grads: coefficients of rows; None where their stat has no gradient.
        col_from: of columns.
        col_grads: of columns; in a triangle those of the rows.
    """

    row_from: Tensor | None = None
    row_grads: Tensor | None = None
    col_from: Tensor | None = None
    col_grads: Tensor | None = None

    @property
    def absent(self) -> bool:
        """Whether G has no share of this stat."""
        return self.row_grads is None and self.col_grads is None


def coefficients_of(
    job: Job,
    state: State,
    upstream: Upstream,
    position: int,
    shift: float | None,
    dtype: torch.dtype,
    rows: slice = WHOLE,
) -> Coefficients:
    """Of the stat at ``position``; of ``rows`` alone where only these are settled."""
    stat, triangle = job.spec.stats[position], job.spec.triangle
    of_rows = upstream.rows[position]
    of_cols = upstream.cols[position] if job.spec.columns else None
    if stat.phi is not None:
        made = (None, of_rows, None, of_rows if triangle else of_cols)
        return Coefficients(*(None if v is None else v.to(dtype) for v in made))
    sides: list[Tensor | None] = []
    for grad, bits, span in ((of_rows, state.row_bits, rows), (of_cols, state.col_bits, WHOLE)):
        if grad is None:
            sides += [None, None]
            continue
        start, out = (torch.empty_like(bits[position], dtype=dtype) for _ in range(2))
        channel_gradients(
            part(bits[position], span),
            part(grad, span),
            stat.factor,
            shift,
            part(start, span),
            part(out, span),
        )
        sides += [start, out]
    if triangle:
        sides[2:] = sides[:2]
    return Coefficients(*sides)
