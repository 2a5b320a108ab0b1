"""The columns that a loss compares its rows with: this process's own, or those of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..ops import ScoreStats, gather_dot, log_sum_exp, pair_sum
from ..problem import Channel, Index, Term
from ..problem.part import Part
from .request import Request
from .sources import Source
from .stats import peer_stats
from .vectors import Everywhere


class OwnColumns:
    """No other process takes part.

    Attributes:
        own: where this process's columns stand among all.
        total: how many there are.
    """

    log_sum_exp = staticmethod(log_sum_exp)
    pair_sum = staticmethod(pair_sum)

    def __init__(self, count: int) -> None:
        self.own, self.total = slice(0, count), count

    def everywhere(self, vector: Tensor) -> Tensor:
        """The same."""
        return vector

    def matrix_everywhere(self, rows: Tensor) -> Tensor:
        """The same."""
        return rows

    def place(self, index: Index) -> Index:
        """The same."""
        return index


class PassingColumns:
    """Those whose keys pass by, shard by shard: of all ranks, or from the host's memory.

    In ``log_sum_exp`` and ``pair_sum`` keys and all vectors of columns are of this process's own
    columns, predicates are of all. Stats of columns are of its own, over the rows of all ranks.
    """

    def __init__(self, caller: str, source: Source) -> None:
        self.own, self.total = source.share.own, source.share.total
        self._caller, self._source = caller, source

    def everywhere(self, vector: Tensor) -> Tensor:
        """The entries of all columns, whose gradients are summed over ranks."""
        collectives, share = self._source.collectives, self._source.share
        if collectives is None:
            return vector
        if not vector.is_floating_point():
            return collectives.gather(vector, share.sizes)
        found: Tensor = Everywhere.apply(self._caller, collectives, share, vector)
        return found

    def matrix_everywhere(self, rows: Tensor) -> Tensor:
        """The embeddings of all columns at once, for losses of several matrices of scores; their
        gradients are summed over ranks.
        """
        return self.everywhere(rows)

    def place(self, index: Index) -> Index:
        """Counted from the first column of all."""
        columns = index.columns
        return Index(torch.where(columns >= 0, columns + self.own.start, -1))

    def log_sum_exp(
        self,
        query: Tensor,
        key: Tensor | None = None,
        *,
        channels: Sequence[Channel],
        **request: Any,
    ) -> ScoreStats:
        """Merged over shards and ranks."""
        return self._reduced(query, key, channels, Channel, **request)

    def pair_sum(
        self, query: Tensor, key: Tensor | None = None, *, terms: Sequence[Term], **request: Any
    ) -> ScoreStats:
        """Summed over shards and ranks."""
        return self._reduced(query, key, terms, Term, **request)

    def _reduced(
        self,
        query: Tensor,
        key: Tensor | None,
        reductions: Sequence[Channel] | Sequence[Term],
        kind: type[Channel] | type[Term],
        *,
        scale: float | Tensor = 1.0,
        col_bias: Tensor | None = None,
        rows: bool = True,
        columns: bool = False,
        positives: Index | None = None,
        ranks: bool = False,
        row_thresholds: Tensor | None = None,
        col_thresholds: Tensor | None = None,
        row_counts: Tensor | None = None,
        col_counts: Tensor | None = None,
        backend: str = "auto",
        workspace: int | None = None,
        row_loss: None = None,
        caller: str = "log_sum_exp",
    ) -> ScoreStats:
        """``positives`` are among this rank's own columns: their scores need no exchange."""
        assert row_loss is None, "losses of rows are summed after the merge"
        key = query if key is None else key
        if ranks and row_thresholds is None and positives is not None:
            with torch.no_grad():
                here = Part(slice(0, query.shape[0]), self.own, query.device)
                own = positives.among(here).columns
                row_thresholds = gather_dot(query, key, own, scale=scale, col_bias=col_bias)
        if ranks and columns and col_thresholds is None:
            col_thresholds = row_thresholds
        request = Request(
            caller=caller,
            reductions=reductions,
            kind=kind,
            rows=rows,
            columns=columns,
            positives=positives,
            ranks=ranks,
            row_thresholds=row_thresholds,
            col_thresholds=self._all(col_thresholds),
            row_counts=row_counts,
            col_counts=self._all(col_counts),
            backend=backend,
            workspace=workspace,
        )
        return peer_stats(request, self._source, query, key, scale, self._all(col_bias))

    def _all(self, vector: Tensor | None) -> Tensor | None:
        return None if vector is None else self.everywhere(vector)


Columns: TypeAlias = OwnColumns | PassingColumns
