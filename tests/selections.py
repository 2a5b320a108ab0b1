"""Selections, dense: what top_k and group_max are compared with."""

from __future__ import annotations

from typing import Any

import torch
from contrastile.problem import Equal, Index, Less, Not, Overlap, Pairs
from helpers import generator
from torch import Tensor

ROWS, COLS, SIZE = 23, 31, 6
IDS = torch.arange(ROWS) % 4, torch.arange(COLS) % 5
NUMBERS = torch.arange(ROWS) % 7, torch.arange(COLS) * 7 % 11
HOLE = torch.arange(ROWS).roll(3)
BY_INDEX = HOLE[:, None] == torch.arange(COLS)
ALL = torch.ones(ROWS, COLS, dtype=torch.bool)
SAME = IDS[0][:, None] == IDS[1]

# Predicates, and which pairs they keep.
PREDICATES: dict[str, tuple[Pairs | None, Tensor]] = {
    "all": (None, ALL),
    "a hole": (Not(Index(HOLE)), ~BY_INDEX),
    "one pair a row": (Index(HOLE), BY_INDEX),
    "ids": (Equal(*IDS), SAME),
    "mixed": (
        Not(Index(HOLE)) & (Not(Equal(*IDS)) | Less(*NUMBERS)),
        ~BY_INDEX & (~SAME | (NUMBERS[0][:, None] < NUMBERS[1])),
    ),
    "none": (Overlap(IDS[0] * 0, IDS[1] * 0), ~ALL),
}
# Ragged groups, empty ones among them; columns of no group at both ends.
STARTS = torch.tensor([1, 1, 5, 6, 6, 17, 29, 29])


def whole_numbers(rows: int, seed: int, size: int = SIZE, **options: Any) -> Tensor:
    """Embeddings whose dot products are exact in every dtype, and often equal."""
    found = torch.randint(-2, 3, (rows, size), generator=generator(seed))
    return found.to(**{"dtype": torch.float64, **options}).requires_grad_()


def dense_top_k(dots: Tensor, kept: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """By a stable sort of all scores."""
    masked = dots.masked_fill(~kept, -torch.inf)
    wide = torch.cat([masked, masked.new_full((len(dots), k), -torch.inf)], 1)
    indices = wide.sort(dim=1, descending=True, stable=True).indices[:, :k]
    values = wide.gather(1, indices)
    return values, torch.where(values == -torch.inf, -1, indices)


def dense_group_max(dots: Tensor, kept: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Group by group."""
    values, indices = [], []
    for begin, end in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        best, at = dense_top_k(dots[:, begin:end], kept[:, begin:end], 1)
        values.append(best)
        indices.append(torch.where(at >= 0, at + begin, -1))
    return torch.cat(values, 1), torch.cat(indices, 1)


def assert_same(got: Any, dense: tuple[Tensor, Tensor], *leaves: Tensor) -> None:
    """Values, columns, and gradients of leaves, all exact in whole numbers."""
    values, indices = dense
    assert torch.equal(got.indices, indices)
    assert torch.equal(got.values.to(values.dtype), values)
    upstream = torch.randint(-3, 4, values.shape, generator=generator(5)).to(values.dtype)
    found, expected = (
        torch.autograd.grad(
            torch.where(indices >= 0, of.to(values.dtype), 0.0), leaves, upstream, allow_unused=True
        )
        for of in (got.values, values)
    )
    for own, other in zip(found, expected, strict=True):
        assert torch.equal(own, torch.zeros_like(own) if other is None else other)
