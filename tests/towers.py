"""Small encoders, their batches, and how gradients of two ways to them are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

ROWS, SIZE, SUB_BATCH = 23, 8, 5
Gradients = list[Tensor]


def linear(size: int = SIZE) -> nn.Linear:
    return nn.Linear(size, SIZE, dtype=torch.float64)


def with_dropout() -> nn.Sequential:
    layers = (linear(), nn.GELU(), nn.Dropout(0.4), linear())
    return nn.Sequential(*layers)


def rows(count: int = ROWS, size: int = SIZE) -> Tensor:
    return torch.randn(count, size, dtype=torch.float64)


def taken(*parameters: Tensor) -> Gradients:
    """The gradients, which are gone from the parameters then."""
    gradients = [each.grad for each in parameters]
    for each in parameters:
        each.grad = None
    return [each for each in gradients if each is not None]


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor], bound: float = 1e-13) -> None:
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)


def in_pieces(encoder: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """All embeddings with one graph, encoded by sub-batch: random numbers fall as they do there."""
    return torch.cat([encoder(piece) for piece in inputs.split(SUB_BATCH)])
