"""The formula of each loss as users write it, with the whole score matrix in memory.

In the dtype of a case it is the provider ``naive``; in fp64 it is what all providers must equal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import Inputs

LossFunction = Callable[[Inputs], Tensor]


def info_nce(inputs: Inputs) -> Tensor:
    query, key = _unit(inputs)
    logits = inputs.scale * query @ key.T
    return F.cross_entropy(logits, _counting(query))


def clip_loss(inputs: Inputs) -> Tensor:
    x, y = inputs.embeddings
    logits = inputs.scale * x @ y.T
    labels = _counting(x)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def nt_xent(inputs: Inputs) -> Tensor:
    z = torch.cat(_unit(inputs))
    logits = (inputs.scale * z @ z.T).masked_fill(_diagonal(z), float("-inf"))
    return F.cross_entropy(logits, _counting(z).roll(len(z) // 2))


def dcl_loss(inputs: Inputs) -> Tensor:
    negatives, positives = _decoupled(inputs)
    return (negatives - positives).mean()


def dclw_loss(inputs: Inputs, sigma: float = 0.5) -> Tensor:
    negatives, positives = _decoupled(inputs)
    z0, z1 = (z.detach() for z in _unit(inputs))
    weights = 2 - len(z0) * torch.softmax((z0 * z1).sum(1) / sigma, 0)
    return (negatives - weights.repeat(2) * positives).mean()


def supcon_loss(inputs: Inputs) -> Tensor:
    (z,) = _unit(inputs)
    (labels,) = inputs.labels
    own = _diagonal(z)
    logits = inputs.scale * z @ z.T
    log_prob = logits - logits.masked_fill(own, float("-inf")).logsumexp(1, keepdim=True)
    positive = (labels[:, None] == labels) & ~own
    return -((positive * log_prob).sum(1) / positive.sum(1)).mean()


def multi_positive_nce(inputs: Inputs) -> Tensor:
    query, key = inputs.embeddings
    query_ids, key_ids = inputs.labels
    logits = inputs.scale * query @ key.T
    positive = query_ids[:, None] == key_ids
    rows = logits.logsumexp(1) - (positive * logits).sum(1) / positive.sum(1)
    columns = logits.logsumexp(0) - (positive * logits).sum(0) / positive.sum(0)
    return (rows.mean() + columns.mean()) / 2


def siglip_loss(inputs: Inputs) -> Tensor:
    x, y = inputs.embeddings
    assert inputs.bias is not None
    logits = inputs.scale * x @ y.T + inputs.bias
    signs = 2 * _diagonal(x).to(logits.dtype) - 1
    return -F.logsigmoid(signs * logits).sum() / len(x)


NAIVE: dict[str, LossFunction] = {
    f.__name__: f
    for f in (
        info_nce,
        clip_loss,
        nt_xent,
        dcl_loss,
        dclw_loss,
        supcon_loss,
        multi_positive_nce,
        siglip_loss,
    )
}


def _decoupled(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """(log-sum-exp over the negatives, score of the positive) of every row of [z0; z1]."""
    z = torch.cat(_unit(inputs))
    logits = inputs.scale * z @ z.T
    own = _diagonal(z)
    other = own.roll(len(z) // 2, 0)
    return logits.masked_fill(own | other, float("-inf")).logsumexp(1), logits[other]


def _unit(inputs: Inputs) -> list[Tensor]:
    return [F.normalize(e, dim=1) for e in inputs.embeddings]


def _counting(z: Tensor) -> Tensor:
    return torch.arange(len(z), device=z.device)


def _diagonal(z: Tensor) -> Tensor:
    return torch.eye(len(z), dtype=torch.bool, device=z.device)
