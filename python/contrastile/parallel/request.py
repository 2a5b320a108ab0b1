"""What is asked of the scores of this rank's rows with the columns of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..problem import Channel, Index, Problem, Scores, Term
from ..problem.part import Part


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
        part: Part,
        query: Tensor,
        key: Tensor,
        scale: float | Tensor,
        col_bias: Tensor | None,
    ) -> Problem:
        """The same for some rows and columns alone, with the embeddings of these; scale and bias
        are of all.
        """
        if isinstance(scale, Tensor):
            scale = scale.to(part.device) if scale.numel() == 1 else part.of_rows(scale)
        scores = Scores.of(self.caller, query, key, scale, None, _cols(col_bias, part))
        reductions: Any = [reduction.among(part) for reduction in self.reductions]
        return Problem.of(
            self.caller,
            scores,
            reductions,
            self.kind,
            rows=self.rows,
            columns=self.columns,
            positives=None if self.positives is None else self.positives.among(part),
            ranks=self.ranks,
            row_thresholds=_rows(self.row_thresholds, part),
            col_thresholds=_cols(self.col_thresholds, part),
            row_counts=_rows(self.row_counts, part),
            col_counts=_cols(self.col_counts, part),
            backend=self.backend,
            workspace=self.workspace,
        )


def _rows(vector: Tensor | None, part: Part) -> Tensor | None:
    return None if vector is None else part.of_rows(vector)


def _cols(vector: Tensor | None, part: Part) -> Tensor | None:
    return None if vector is None else part.of_cols(vector)
