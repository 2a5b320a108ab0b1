"""The losses once more, dense and slow: what every other implementation is compared with.

Each function follows its formula on a full score matrix with boolean masks, at the dtype of its
inputs, with autograd through everything. In fp64 it is the truth; at the dtype of a user it is
the plain torch version whose error the package promises not to exceed. Nothing here comes from
the package.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EMPTY_SCORES = float("-inf")


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


def gist_loss(
    anchor: Tensor,
    positive: Tensor,
    guide_anchor: Tensor,
    guide_positive: Tensor,
    negatives: Tensor | None = None,
    guide_negatives: Tensor | None = None,
    *,
    margin: float = 0.0,
    margin_mode: str = "absolute",
    contrast_anchors: bool = True,
    contrast_positives: bool = True,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """Four blocks in one softmax, without pairs that the guide finds closer than the row's own."""
    anchor, positive, negatives = (unit(t, normalize) for t in (anchor, positive, negatives))
    guide_anchor, guide_positive, guide_negatives = (
        unit(t, True) for t in (guide_anchor, guide_positive, guide_negatives)
    )
    scale, off = scale_of(temperature, logit_scale), ~torch.eye(len(anchor), dtype=torch.bool)
    limit = (guide_anchor * guide_positive).sum(dim=1, keepdim=True)
    limit = limit - (margin * limit.abs() if margin_mode == "relative" else margin)
    blocks = [(anchor, positive, guide_anchor, guide_positive)]
    if contrast_anchors:
        blocks.append((anchor, anchor, guide_anchor, guide_anchor))
    if contrast_positives:
        blocks.append((positive, positive, guide_positive, guide_positive))
    scores, kept = [], []
    for x, y, u, v in blocks:
        scores.append(score_matrix(x, y, scale, logit_bias))
        kept.append(off & ~(u @ v.T > limit))
    if negatives is not None:
        scores.append(score_matrix(anchor, negatives, scale, logit_bias))
        kept.append(~(guide_anchor @ guide_negatives.T > limit))
    target = torch.arange(len(anchor))
    losses, valid = softmax_rows(
        torch.cat(scores, dim=1), target, torch.cat(kept, dim=1), scale, 0.0, 0.0
    )
    return reduce_rows(losses, valid, weights, reduction, empty)


def qwen3_loss(
    query: Tensor,
    document: Tensor,
    hard_negatives: Tensor | None = None,
    *,
    margin: float = 0.1,
    query_query: bool = True,
    document_document: bool = True,
    ids: Tensor | None = None,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """One softmax over pairs of three kinds and hard negatives, but for those beyond the margin."""
    query, document = unit(query, normalize), unit(document, normalize)
    scale, off = scale_of(temperature, logit_scale), others(ids, len(query))
    limit = (query * document).sum(dim=1, keepdim=True).detach() + margin
    blocks = [(query, document)]
    if query_query:
        blocks.append((query, query))
    if document_document:
        blocks.append((document, document))
    scores = [score_matrix(x, y, scale, logit_bias) for x, y in blocks]
    kept = [off & (x @ y.T <= limit) for x, y in blocks]
    if hard_negatives is not None:
        hard = unit(hard_negatives.flatten(0, 1), normalize).view(hard_negatives.shape)
        scores.append(own_scores(query, hard, scale) + (0.0 if logit_bias is None else logit_bias))
        kept.append(torch.einsum("nd,nkd->nk", query, hard) <= limit)
    target = torch.arange(len(query))
    losses, valid = softmax_rows(
        torch.cat(scores, dim=1), target, torch.cat(kept, dim=1), scale, 0.0, 0.0
    )
    return reduce_rows(losses, valid, weights, reduction, empty)


def distill_clip_loss(
    x: Tensor,
    y: Tensor,
    teacher_x: Tensor,
    teacher_y: Tensor,
    *,
    teacher_scale: float | Tensor | None = None,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    logit_bias: float | Tensor | None = None,
    weights: Tensor | None = None,
    normalize: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
) -> Tensor:
    """Minus the mean of the student's log softmax under the teacher's softmax, rows and columns."""
    x, y, u, v = (unit(t, normalize) for t in (x, y, teacher_x, teacher_y))
    scale = scale_of(temperature, logit_scale)
    own = scale.detach() if teacher_scale is None else teacher_scale
    student = score_matrix(x, y, scale, logit_bias)
    teacher = score_matrix(u, v, torch.as_tensor(own), None)
    losses = torch.zeros((), dtype=student.dtype)
    for s, t in ((student, teacher), (student.T, teacher.T)):
        losses = losses - (t.softmax(dim=1) * s.log_softmax(dim=1)).sum(dim=1) / 2
    valid = torch.full((len(x),), len(x) > 1)
    return reduce_rows(losses, valid, weights, reduction, empty)


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
