"""What is asked of the scores of this rank's rows with the columns of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..problem import Channel, Index, Problem, Scores, Term


@dataclass(frozen=True, eq=False)
class Request:
    """The arguments of log_sum_exp or pair_sum, vectors of columns for the columns of all ranks.

    It cannot be a Problem, as no rank need ever have all keys.
    """

    caller: str
    reductions: Sequence[Channel] | Sequence[Term]
    kind: type[Channel] | type[Term]
    rows: bool
    columns: bool
    positives: Index | None
    ranks: bool
    row_thresholds: Tensor | None
    col_thresholds: Tensor | None
    row_counts: Tensor | None
    col_counts: Tensor | None
    backend: str
    workspace: int | None

    def problem(
        self,
        cols: slice,
        query: Tensor,
        key: Tensor,
        scale: float | Tensor,
        col_bias: Tensor | None,
    ) -> Problem:
        """The same for the columns ``cols`` alone, whose keys are ``key``."""
        bias = None if col_bias is None else col_bias[cols]
        scores = Scores.of(self.caller, query, key, scale, None, bias)
        reductions: Any = [reduction.among(cols) for reduction in self.reductions]
        return Problem.of(
            self.caller,
            scores,
            reductions,
            self.kind,
            rows=self.rows,
            columns=self.columns,
            positives=None if self.positives is None else self.positives.among(cols),
            ranks=self.ranks,
            row_thresholds=self.row_thresholds,
            col_thresholds=_part(self.col_thresholds, cols),
            row_counts=self.row_counts,
            col_counts=_part(self.col_counts, cols),
            backend=self.backend,
            workspace=self.workspace,
        )


def _part(vector: Tensor | None, cols: slice) -> Tensor | None:
    return None if vector is None else vector[cols]
