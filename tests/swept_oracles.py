"""Losses of several matrices of scores, dense and slow, in the words of oracles.py."""

from __future__ import annotations

import torch
from oracle_parts import (
    others,
    own_scores,
    reduce_rows,
    scale_of,
    score_matrix,
    softmax_rows,
    unit,
)
from torch import Tensor


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
