"""sentence-transformers' ranking losses by their own signatures, in blocks and over all ranks.

One line of a training script changes: ``from contrastile.integrations.sentence_transformers import
MultipleNegativesRankingLoss`` (or the cached one). They are subclasses: options, citation and model
card are the library's. Written against sentence-transformers 6.2; docs/integrations.md has a table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from sentence_transformers.sentence_transformer import losses as theirs
from sentence_transformers.util import all_gather_with_grad, cos_sim, dot_score
from sentence_transformers.util.similarity import SimilarityFunction, pytorch_cos_sim
from torch import Tensor

from ..losses import clip_loss, info_nce
from ..ops.unit_length import unit_length
from ..problem.checks import InputError
from .directions import directional_losses
from .inputs import as_multiplied

# The similarities that are dot products, and whether of unit vectors.
NORMALIZED = {cos_sim: True, pytorch_cos_sim: True, dot_score: False}
ONE_WAY, BOTH_WAYS = {"query_to_doc"}, {"query_to_doc", "doc_to_query"}


class MultipleNegativesRankingLoss(theirs.MultipleNegativesRankingLoss):
    """``sentence_transformers``' loss of that name: same arguments, same value, same gradients.

    Scores are never stored. With ``gather_across_devices`` keys go from rank to rank instead of
    being gathered with their scores, for the default directions and the symmetric ones (each
    direction its own softmax); others gather as the library does.

    Args:
        args, options: the library's own. ``similarity_fct`` must be cos_sim or dot_score.

    Raises:
        InputError: another similarity, which needs the scores' embeddings pair by pair.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        is_cosine(self.similarity_fct)

    def compute_loss_from_embeddings(
        self, embeddings: list[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """The loss of queries, positives and columns of hard negatives."""
        if len(embeddings) < 2:
            raise InputError(
                f"{type(self).__name__}: needs queries and their documents, got "
                f"{len(embeddings)} column"
            )
        cosine = is_cosine(self.similarity_fct)
        query, *docs = (_as_scored(column, cosine) for column in embeddings)
        per_direction, hard = self.partition_mode == "per_direction", self._has_hardness()
        if not hard and set(self.directions) == ONE_WAY:
            return info_nce(query, _joined(docs), **self._options())
        if not hard and per_direction and set(self.directions) == BOTH_WAYS:
            if len(docs) == 1:
                return clip_loss(query, docs[0], **self._options())
            there = info_nce(query, _joined(docs), **self._options())
            return (there + info_nce(docs[0], query, **self._options())) / 2
        count, first = query.shape[0], 0
        if self._gathers():
            query, docs = all_gather_with_grad(query), [all_gather_with_grad(d) for d in docs]
            first = dist.get_rank() * count
        losses = directional_losses(
            query,
            docs,
            first,
            count,
            scale=self.scale,
            directions=self.directions,
            joint=not per_direction,
            hardness=self.hardness_mode,
            strength=self.hardness_strength,
        )
        return losses.mean()

    def _has_hardness(self) -> bool:
        return self.hardness_mode is not None and self.hardness_strength > 0.0

    def _gathers(self) -> bool:
        return self.gather_across_devices and dist.is_available() and dist.is_initialized()

    def _options(self) -> dict[str, Any]:
        group = {"group": dist.group.WORLD} if self._gathers() else {}
        return {"logit_scale": self.scale, **group}


class CachedMultipleNegativesRankingLoss(theirs.CachedMultipleNegativesRankingLoss):
    """``sentence_transformers``' loss of that name, over :class:`MultipleNegativesRankingLoss`.

    The library's own gradient cache embeds the mini-batches; the loss between its two passes is of
    all embeddings at once, in blocks of the workspace instead of ``mini_batch_size`` rows.

    Args:
        args, options: the library's own. ``similarity_fct`` must be cos_sim or dot_score.

    Raises:
        InputError: another similarity.
    """

    loss: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        given = self.loss
        self.loss = MultipleNegativesRankingLoss(
            given.model, **{name: getattr(given, name) for name in self._delegated_to_wrapped_loss}
        )

    def calculate_loss(
        self,
        reps: list[list[Tensor]],
        labels: Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> Tensor:
        """The loss of all mini-batches' embeddings, and their gradients if asked for."""
        loss = self.loss.compute_loss_from_embeddings([torch.cat(column) for column in reps])
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss


def is_cosine(similarity: Callable[..., Any]) -> bool:
    """Whether a similarity is the cosine; else it is the dot product.

    Raises:
        InputError: it is neither.
    """
    owner: Any = getattr(similarity, "__self__", None)
    if getattr(similarity, "__name__", "") == "similarity" and hasattr(owner, "similarity_fn_name"):
        similarity = SimilarityFunction.to_similarity_fn(owner.similarity_fn_name)
    if similarity not in NORMALIZED:
        raise InputError(
            f"MultipleNegativesRankingLoss: similarity_fct must be cos_sim or dot_score, got "
            f"{similarity!r}; sentence_transformers' own loss takes any"
        )
    return NORMALIZED[similarity]


def _as_scored(column: Tensor, cosine: bool) -> Tensor:
    """Embeddings as the library multiplies them; their lengths are taken in fp32."""
    dtype = as_multiplied(column).dtype
    return (unit_length(column) if cosine else column).to(dtype)


def _joined(docs: list[Tensor]) -> Tensor:
    return torch.cat(docs) if len(docs) > 1 else docs[0]
