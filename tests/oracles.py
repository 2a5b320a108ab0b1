"""The losses once more, dense and slow: what every other implementation is compared with.

Each function follows its formula on a full score matrix with boolean masks, at the dtype of its
inputs, with autograd through everything. In fp64 it is the truth; at the dtype of a user it is
the plain torch version whose error the package promises not to exceed. Nothing here comes from
the package.
"""

from __future__ import annotations

import torch
from oracle_parts import (
    EMPTY_SCORES,
    decoupled_rows,
    log_sum_exp,
    others,
    own_scores,
    reduce_rows,
    scale_of,
    score_matrix,
    several_positive_rows,
    softmax_rows,
    softplus,
    twice,
    two_views,
    unit,
)
from swept_oracles import distill_clip_loss, gist_loss, qwen3_loss
from torch import Tensor

__all__ = [
    "clip_loss",
    "dcl_loss",
    "dclw_loss",
    "distill_clip_loss",
    "gist_loss",
    "hard_negative_nce",
    "info_nce",
    "log_sum_exp",
    "multi_positive_nce",
    "nt_xent",
    "others",
    "qwen3_loss",
    "siglip_loss",
    "supcon_loss",
    "unit",
]


def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    positives: Tensor | None = None,
    negatives: Tensor | None = None,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """-log softmax of the positive among the kept keys; extra negatives are always kept."""
    query, key = (unit(t, normalize) for t in (query, key))
    own = None
    if negatives is not None:
        negatives = unit(negatives.flatten(0, -2), normalize).view(negatives.shape)
        if negatives.ndim == 3:
            own, negatives = negatives, None
    rows, paired = len(query), len(key)
    target = torch.arange(rows) if positives is None else positives.long()
    kept = torch.ones(rows, paired, dtype=torch.bool)
    if query_ids is not None and key_ids is not None:
        kept = query_ids[:, None] != key_ids[None, :]
    if negatives is not None:
        key = torch.cat([key, negatives])
        kept = torch.cat([kept, torch.ones(rows, len(negatives), dtype=torch.bool)], dim=1)
    kept = kept & (torch.arange(len(key)) != target[:, None])
    scale = scale_of(temperature, logit_scale)
    scores = score_matrix(query, key, scale, logit_bias)
    if own is not None:
        more = own_scores(query, own, scale)
        shared = 0.0 if logit_bias is None else logit_bias
        scores = torch.cat([scores, more + shared], dim=1)
        kept = torch.cat([kept, torch.ones_like(more, dtype=torch.bool)], dim=1)
    losses, valid = softmax_rows(scores, target, kept, scale, margin, label_smoothing)
    return reduce_rows(losses, valid, weights, reduction, empty)


def clip_loss(
    x: Tensor,
    y: Tensor,
    *,
    ids: Tensor | None = None,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """Half the row loss plus half the column loss of one square score matrix."""
    x, y = unit(x, normalize), unit(y, normalize)
    target = torch.arange(len(x))
    kept = others(ids, len(x))
    scale = scale_of(temperature, logit_scale)
    scores = score_matrix(x, y, scale, logit_bias)
    rows, valid = softmax_rows(scores, target, kept, scale, margin, label_smoothing)
    columns, _ = softmax_rows(scores.T, target, kept, scale, margin, label_smoothing)
    return reduce_rows((rows + columns) / 2, valid, weights, reduction, empty)


def nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    ids: Tensor | None = None,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    margin: float = 0.0,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """Every view against all other views; the same instance's other view is the positive."""
    scale = scale_of(temperature, logit_scale)
    scores, target, kept = two_views(z0, z1, ids, scale, logit_bias, normalize)
    losses, valid = softmax_rows(scores, target, kept, scale, margin, label_smoothing)
    return reduce_rows(losses, valid, twice(weights), reduction, empty)


def dcl_loss(
    z0: Tensor,
    z1: Tensor,
    *,
    ids: Tensor | None = None,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    margin: float = 0.0,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """NT-Xent with the positive left out of the denominator."""
    scale = scale_of(temperature, logit_scale)
    scores, target, kept = two_views(z0, z1, ids, scale, logit_bias, normalize)
    losses, valid = decoupled_rows(scores, target, kept, scale, margin, torch.ones(len(scores)))
    return reduce_rows(losses, valid, twice(weights), reduction, empty)


def dclw_loss(
    z0: Tensor,
    z1: Tensor,
    *,
    ids: Tensor | None = None,
    sigma: float = 0.5,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    margin: float = 0.0,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """DCL whose positive is multiplied by 2 - N softmax_i(<z0_i, z1_i> / sigma), a constant."""
    scale = scale_of(temperature, logit_scale)
    scores, target, kept = two_views(z0, z1, ids, scale, logit_bias, normalize)
    agreement = (unit(z0, normalize) * unit(z1, normalize)).sum(1).detach()
    omega = 2 - len(z0) * torch.softmax(agreement / sigma, dim=0)
    losses, valid = decoupled_rows(scores, target, kept, scale, margin, twice(omega))
    return reduce_rows(losses, valid, twice(weights), reduction, empty)


def supcon_loss(
    z: Tensor,
    labels: Tensor,
    *,
    variant: str = "out",
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """Every row against all others; rows of equal label are its positives."""
    z = unit(z, normalize)
    scores = score_matrix(z, z, scale_of(temperature, logit_scale), logit_bias)
    candidates = ~torch.eye(len(z), dtype=torch.bool)
    positive = candidates & (labels[:, None] == labels[None, :])
    losses, valid = several_positive_rows(scores, candidates, positive, variant)
    return reduce_rows(losses, valid, weights, reduction, empty)


def multi_positive_nce(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    *,
    variant: str = "out",
    direction: str = "both",
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """Keys with the id of the query are its positives, and the other way round."""
    query, key = unit(query, normalize), unit(key, normalize)
    scores = score_matrix(query, key, scale_of(temperature, logit_scale), logit_bias)
    positive = query_ids[:, None] == key_ids[None, :]
    everything = torch.ones_like(positive)
    rows, rows_valid = several_positive_rows(scores, everything, positive, variant)
    columns, columns_valid = several_positive_rows(scores.T, everything.T, positive.T, variant)
    if direction == "rows":
        return reduce_rows(rows, rows_valid, weights, reduction, empty)
    if direction == "columns":
        return reduce_rows(columns, columns_valid, weights, reduction, empty)
    row_weights, column_weights = None, None
    if weights is not None:
        row_weights, column_weights = weights.split([len(query), len(key)])
    of_rows = reduce_rows(rows, rows_valid, row_weights, reduction, empty)
    of_columns = reduce_rows(columns, columns_valid, column_weights, reduction, empty)
    if reduction == "none":
        return torch.cat([of_rows, of_columns])
    return of_rows + of_columns if reduction == "sum" else (of_rows + of_columns) / 2


def siglip_loss(
    x: Tensor,
    y: Tensor,
    *,
    ids: Tensor | None = None,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """One yes-or-no question per pair, summed over the pairs of a row."""
    x, y = unit(x, normalize), unit(y, normalize)
    scores = score_matrix(x, y, scale_of(temperature, logit_scale), logit_bias)
    sign = torch.where(others(ids, len(x)), -1.0, 1.0).to(scores.dtype)
    losses = softplus(-sign * scores).sum(1)
    return reduce_rows(losses, torch.ones(len(x), dtype=torch.bool), weights, reduction, empty)


def hard_negative_nce(
    query: Tensor,
    key: Tensor,
    *,
    ids: Tensor | None = None,
    beta: float = 1.0,
    tau_plus: float = 0.0,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """The number of negatives times their power's mean under weights e^(beta S), less what false
    ones have of it, at least that of opposite vectors of unit length.
    """
    query, key = unit(query, normalize), unit(key, normalize)
    scale = scale_of(temperature, logit_scale)
    scores, kept = score_matrix(query, key, scale, logit_bias), others(ids, len(query))
    number, valid = kept.sum(dim=1).clamp(min=1).to(scores.dtype), kept.any(dim=1)
    positive, bias = scores.diagonal(), 0.0 if logit_bias is None else logit_bias
    weighted = [torch.where(valid, log_sum_exp(c * scores, kept), 0.0) for c in (1 + beta, beta)]
    negatives = number.log() + weighted[0] - weighted[1]
    if tau_plus:
        top = torch.maximum(negatives, positive).detach()
        false = tau_plus * number * (positive - top).exp()
        left = ((negatives - top).exp() - false) / (1 - tau_plus)
        least = (number.log() - scale + bias).to(scores.dtype)
        true = torch.where(left > 0, left, 1.0).log() + top
        negatives = torch.maximum(torch.where(left > 0, true, EMPTY_SCORES), least)
    losses = torch.where(valid, softplus(negatives - positive), 0.0)
    return reduce_rows(losses, valid, weights, reduction, empty)
