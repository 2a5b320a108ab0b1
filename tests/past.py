"""Rows with embeddings of past batches: made up, and losses of them with all scores in memory."""

from __future__ import annotations

import torch
from helpers import generator, unit_rows
from torch import Tensor
from torch.nn.functional import cross_entropy

N, K, D = 7, 11, 5
SCALE = 6.0


def kept_of(ids: Tensor | None, past_ids: Tensor | None, own: int, past: int) -> Tensor:
    """Which of own and past columns each row is compared with, its positive among them."""
    kept = torch.ones(own, own + past, dtype=torch.bool)
    if ids is not None and past_ids is not None:
        same = (ids[:, None] == torch.cat([ids, past_ids])) & (ids[:, None] != -1)
        kept = ~same
    return kept | torch.eye(own, own + past, dtype=torch.bool)


def dense_info_nce(
    x: Tensor, y: Tensor, past: Tensor, kept: Tensor, margin: float = 0.0, smoothing: float = 0.0
) -> Tensor:
    """A row's cross-entropy by torch; each row by itself, with the columns it keeps."""
    scores = SCALE * x @ torch.cat([y, past]).T
    scores = scores - SCALE * margin * torch.eye(*scores.shape, dtype=torch.float64)
    losses = []
    for i, row in enumerate(scores):
        columns = kept[i].nonzero()[:, 0]
        target = (columns == i).nonzero()[0]
        plain = cross_entropy(row[columns][None], target)
        # The loss spreads smoothing over scores of which the positive has its margin.
        spread = row[i] - row[columns].mean()
        losses.append(plain + smoothing * spread)
    return torch.stack(losses)


def dense_clip(
    x: Tensor, y: Tensor, past: tuple[Tensor, Tensor], kept: Tensor, *more: float
) -> Tensor:
    rows = dense_info_nce(x, y, past[1], kept, *more)
    return (rows + dense_info_nce(y, x, past[0], kept, *more)) / 2


def dense_supcon(
    z: Tensor,
    labels: Tensor,
    past: Tensor,
    past_labels: Tensor,
    variant: str,
    scale: float = SCALE,
) -> Tensor:
    n = len(z)
    scores = scale * z @ torch.cat([z, past]).T
    own = torch.eye(n, n + len(past), dtype=torch.bool)
    positive = (labels[:, None] == torch.cat([labels, past_labels])) & (labels[:, None] != -1)
    positive = positive & ~own
    log_prob = scores - scores.masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)
    losses = []
    for row, chosen in zip(log_prob, positive, strict=True):
        if not chosen.any():
            losses.append(row.sum() * 0)
        elif variant == "out":
            losses.append(-row[chosen].mean())
        else:
            losses.append(-row[chosen].exp().mean().log())
    return torch.stack(losses)


def batch(seed: int, count: int = N, past: int = K) -> dict[str, Tensor]:
    rng = generator(seed)
    made = {name: unit_rows(count, D, rng).requires_grad_() for name in "xy"}
    made |= {f"past_{name}": unit_rows(past, D, rng) for name in "xy"}
    made["ids"] = torch.randint(-1, 4, (count,), generator=rng)
    made["past_ids"] = torch.randint(-1, 4, (past,), generator=rng)
    return made
