"""What the dense losses are made of: scores, masks, log-sum-exps of rows, the mean over rows.

Nothing here comes from the package.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EMPTY_SCORES = float("-inf")


def unit(x: Tensor | None, normalize: bool) -> Tensor | None:
    """Rows of length one where asked for; a zero row stays zero and gets no gradient."""
    if x is None or not normalize:
        return x
    alive = (x != 0).any(dim=1, keepdim=True)
    length = torch.where(alive, x, 1.0).norm(dim=1, keepdim=True)
    return torch.where(alive, x / length, 0.0)


def scale_of(temperature: float | Tensor | None, logit_scale: float | Tensor | None) -> Tensor:
    """One number for all, or one per row; a plain number loses no digit, whatever the dtype."""
    scale = 1.0 / temperature if logit_scale is None else logit_scale
    return scale if isinstance(scale, Tensor) else torch.tensor(scale, dtype=torch.float64)


def score_matrix(query: Tensor, key: Tensor, scale: Tensor, bias: float | Tensor | None) -> Tensor:
    """scale_i <q_i, k_j> + bias_j, at the dtype of the embeddings."""
    dots = query @ key.T
    scores = (dots * (scale if scale.ndim == 0 else scale[:, None])).to(dots.dtype)
    return scores if bias is None else (scores + bias).to(dots.dtype)


def own_scores(query: Tensor, own: Tensor, scale: Tensor) -> Tensor:
    """scale_i <q_i, n_ik> of vectors [N, K, D], at the dtype of the embeddings."""
    dots = torch.einsum("nd,nkd->nk", query, own)
    return (dots * (scale if scale.ndim == 0 else scale[:, None])).to(dots.dtype)


def others(ids: Tensor | None, count: int) -> Tensor:
    """Off-diagonal pairs of different id."""
    off_diagonal = ~torch.eye(count, dtype=torch.bool)
    return off_diagonal if ids is None else off_diagonal & (ids[:, None] != ids[None, :])


def twice(rows: Tensor | None) -> Tensor | None:
    return None if rows is None else torch.cat([rows, rows])


def two_views(
    z0: Tensor,
    z1: Tensor,
    ids: Tensor | None,
    scale: Tensor,
    bias: float | Tensor | None,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of all 2N views, the index of the other view, and the pairs of other instances."""
    z = unit(torch.cat([z0, z1]), normalize)
    index = torch.arange(len(z))
    target = (index + len(z0)) % max(len(z), 1)
    kept = others(ids, len(z0)).repeat(2, 2)
    return score_matrix(z, z, scale, bias), target, kept


def log_sum_exp(scores: Tensor, kept: Tensor) -> Tensor:
    """Over the kept entries of each row; a row without any gives -inf and no gradient."""
    some = kept.any(dim=1)
    filled = scores.masked_fill(~kept, EMPTY_SCORES)
    filled = torch.where(some[:, None], filled, 0.0)
    return torch.where(some, torch.logsumexp(filled, dim=1), EMPTY_SCORES)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) at full accuracy; torch's own drops the last term beyond 20."""
    return -F.logsigmoid(-x)


def positive_score(scores: Tensor, target: Tensor, scale: Tensor, margin: float) -> Tensor:
    """The target's score less the margin; a row without target gets some finite number."""
    picked = scores.gather(1, target.clamp(min=0)[:, None])[:, 0]
    return (picked - margin * scale).to(scores.dtype)


def softmax_rows(
    scores: Tensor,
    target: Tensor,
    kept: Tensor,
    scale: Tensor,
    margin: float,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """ell - (1-e) pos - e mean(included scores), with ell over the positive and the kept ones."""
    valid = (target >= 0) & kept.any(dim=1)
    positive = positive_score(scores, target, scale, margin)
    gap = torch.where(valid, log_sum_exp(scores, kept) - positive, 0.0)
    losses = softplus(gap)
    if label_smoothing:
        included = 1 + kept.sum(dim=1)
        average = (positive + torch.where(kept, scores, 0.0).sum(dim=1)) / included
        losses = losses + label_smoothing * (positive - average)
    return torch.where(valid, losses, 0.0), valid


def decoupled_rows(
    scores: Tensor, target: Tensor, kept: Tensor, scale: Tensor, margin: float, omega: Tensor
) -> tuple[Tensor, Tensor]:
    """ell over the kept ones alone, less omega times the positive."""
    valid = kept.any(dim=1)
    positive = positive_score(scores, target, scale, margin)
    losses = log_sum_exp(scores, kept) - omega.to(scores.dtype) * positive
    return torch.where(valid, losses, 0.0), valid


def several_positive_rows(
    scores: Tensor, candidates: Tensor, positive: Tensor, variant: str
) -> tuple[Tensor, Tensor]:
    """ell over the candidates, less the mean positive ("out") or the mean likelihood ("in")."""
    valid = positive.any(dim=1)
    count = positive.sum(dim=1).clamp(min=1).to(scores.dtype)
    if variant == "out":
        attraction = torch.where(positive, scores, 0.0).sum(dim=1) / count
    else:
        attraction = log_sum_exp(scores, positive) - count.log()
    losses = log_sum_exp(scores, candidates) - attraction
    return torch.where(valid, losses, 0.0), valid


def reduce_rows(
    losses: Tensor, valid: Tensor, weights: Tensor | None, reduction: str, empty: str
) -> Tensor:
    """Weighted rows, their sum, or their mean over all rows ("skip": over the valid ones)."""
    if empty == "error" and not valid.all():
        raise ValueError("there is an empty row")
    weighted = losses if weights is None else losses * weights.to(losses.dtype)
    if reduction == "none":
        return weighted
    if reduction == "sum":
        return weighted.sum()
    count = int(valid.sum()) if empty == "skip" else len(losses)
    return weighted.sum() / max(count, 1)
