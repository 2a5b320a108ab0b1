"""The loss of sentence-transformers for any choice of directions and weights of hard negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..ops import gather_dot, log_sum_exp, merge_log_sum_exp
from ..problem import Channel, Equal, Index, Not, Pairs


def directional_losses(
    queries: Tensor,
    docs: Sequence[Tensor],
    first: int,
    count: int,
    *,
    scale: float,
    directions: Sequence[str],
    joint: bool,
    hardness: str | None = None,
    strength: float = 0.0,
) -> Tensor:
    r"""The losses of ``count`` queries from ``first`` on, against everything that was gathered.

    .. math:: L_i = \log\Big(c\,e^{p_i} + \sum_{d}\sum_{j \in d(i)} e^{S^d_{ij} + h_{ij}}\Big) - p_i

    over the directions d, where c of them hold the positive; or, not ``joint``, the mean over
    directions of each one's own loss. ``h`` is ``strength`` times the unscaled score of negatives,
    without gradient.

    Args:
        queries: [M, D], of all ranks.
        docs: the positives and the columns of hard negatives, each [M, D].
        first: the first of this rank's queries.
        count: how many it has.
        scale: multiplies the dot products.
        directions: of query_to_doc, query_to_query, doc_to_query, doc_to_doc.
        joint: one softmax over all directions.
        hardness: None, "in_batch_negatives", "hard_negatives" or "all_negatives".
        strength: of the hardness, which only query_to_doc has.

    Returns:
        [count], fp32 (fp64 for fp64 embeddings).
    """
    device, everything = queries.device, torch.cat(list(docs)) if len(docs) > 1 else docs[0]
    own = Index.diagonal(count, first, device)
    alone = count == queries.shape[0]
    query = queries if alone else queries[first : first + count]
    doc = docs[0] if alone else docs[0][first : first + count]
    ids = torch.arange(queries.shape[0], device=device)
    of_others = Not(Equal(ids[first : first + count], ids.repeat(len(docs))))

    def negatives(rows: Tensor, keys: Tensor, pairs: Pairs, extra: float = 0.0) -> Tensor:
        channel = [Channel(pairs)]
        (found,) = log_sum_exp(rows, keys, scale=scale + extra, channels=channel).rows
        return _with_gradient(found, scale / (scale + extra))

    def query_to_doc() -> Tensor:
        if hardness is None or not strength:
            return negatives(query, everything, Not(own))
        on_others = 0.0 if hardness == "hard_negatives" else strength
        found = negatives(query, everything, of_others, on_others)
        if len(docs) == 1:
            return found
        on_hard = 0.0 if hardness == "in_batch_negatives" else strength
        hard = torch.stack([each[first : first + count] for each in docs[1:]])
        scores = torch.einsum("nd,knd->nk", query, hard).to(found.dtype)
        scores = scale * scores + on_hard * scores.detach()
        return merge_log_sum_exp(found, scores.logsumexp(1))

    # Each with how many times its sum holds the positive.
    made = {
        "query_to_doc": (query_to_doc, 1),
        "query_to_query": (lambda: negatives(query, queries, Not(own)), 0),
        "doc_to_query": (lambda: negatives(doc, queries, Not(own)), 1),
        "doc_to_doc": (lambda: negatives(doc, everything, of_others), 0),
    }
    chosen = [made[direction] for direction in directions]
    positive = gather_dot(query, doc, torch.arange(count, device=device), scale=scale)
    if not joint:
        losses = [softplus(make() - positive) for make, _ in chosen]
        return torch.stack(losses).mean(0)
    times = math.log(sum(held for _, held in chosen))
    found = merge_log_sum_exp(*(make() for make, _ in chosen))
    return softplus(found - positive - times) + times


def _with_gradient(value: Tensor, factor: float) -> Tensor:
    """``value``, whose gradient is multiplied by ``factor``."""
    if factor == 1.0:
        return value
    constant = value.detach()
    return torch.where(constant.isneginf(), constant, constant + factor * (value - constant))
