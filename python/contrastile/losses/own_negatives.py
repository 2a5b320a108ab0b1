"""Negatives of each row's own: N K scores beside the N M of all pairs, by batched products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.ranks import just_above
from ..ops import ScoreStats
from ..problem import InputError
from ..problem.checks import FLOATS, check_tensor, shape
from .options import Options


@dataclass(frozen=True, eq=False)
class OwnNegatives:
    """Their dot products with their rows [N, K]."""

    dots: Tensor

    @classmethod
    def of(cls, opts: Options, query: Tensor, negatives: Tensor) -> OwnNegatives:
        """``negatives`` [N, K, D] of the rows of ``query``, which is as the options make it."""
        n, k, size = negatives.shape
        rows = opts.embeddings(negatives.reshape(n * k, size)).reshape(n, k, size)
        wide = torch.promote_types(torch.promote_types(query.dtype, rows.dtype), torch.float32)
        # Autocast would round the products.
        with torch.autocast(query.device.type, enabled=False):
            return cls(torch.einsum("nd,nkd->nk", query.to(wide), rows.to(wide)))

    def log_sum_exp(
        self,
        options: Options,
        scale: float | Tensor,
        positive: Tensor,
        shift: Tensor | None = None,
        limits: Tensor | None = None,
    ) -> ScoreStats:
        """Of those whose dot product does not exceed the row's limit; ranks, if stats are wanted,
        beside the score of the row's positive. Scores are less the ``shift`` of their row.
        """
        of_rows = scale[:, None] if isinstance(scale, Tensor) and scale.dim() else scale
        scores = self.dots * of_rows
        if shift is not None:
            scores = scores - shift[:, None]
        scores = scores.to(positive.dtype)
        kept = torch.ones_like(self.dots, dtype=torch.bool)
        if limits is not None:
            kept = ~(self.dots.detach() > limits[:, None])
        some = kept.any(1)
        # A row of -inf alone has a gradient of NaN.
        filled = torch.where(some[:, None], scores.masked_fill(~kept, -torch.inf), 0.0)
        lse = torch.where(some, filled.logsumexp(1), -torch.inf)
        rank = None
        if options.return_stats:
            limit = just_above(positive.detach(), shift)
            rank = (kept & (scores > limit[:, None])).sum(1)
        return ScoreStats(rows=(lse,), row_rank=rank)

    def included(self, query: Tensor) -> tuple[Tensor, int]:
        """For each row, the sum of its dot products with them, and their number."""
        return self.dots.sum(1), self.dots.shape[1]


def check_own_negatives(caller: str, name: str, value: object, query: Tensor) -> Tensor:
    """``value`` are negatives [N, K, D] for the rows [N, D] of ``query``."""
    negatives = check_tensor(caller, name, value)
    fits = negatives.dim() == 3 and negatives.shape[::2] == query.shape
    if not fits or negatives.dtype not in FLOATS:
        raise InputError(
            f"{caller}: {name} of each row's own must be floating point "
            f"[{query.shape[0]}, K, {query.shape[1]}], got {shape(negatives)} of {negatives.dtype}"
        )
    return negatives
