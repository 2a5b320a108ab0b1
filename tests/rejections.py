"""A call that works, and the proof that one change makes it fail with one message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import contrastile
import contrastile.functional as losses
import pytest
import torch
from cases import LOSSES
from contrastile.losses.registry import LOSSES as REGISTRY
from contrastile.problem import plain
from helpers import Arguments

ROWS, SIZE = 6, 4


def embeddings_of(loss: str) -> list[str]:
    return list(REGISTRY[loss].embeddings)


def minimal(loss: str) -> Arguments:
    """The fewest arguments that work."""
    vectors = [*embeddings_of(loss), *REGISTRY[loss].guides]
    arguments: Arguments = {name: torch.ones(ROWS, SIZE) for name in vectors}
    arguments |= {name: torch.arange(ROWS) for name in REGISTRY[loss].labels}
    return {**arguments, "temperature": 0.5}


def rejected(
    loss: str, message: str, error: type[Exception] = contrastile.InputError, **changes: Any
) -> None:
    """The call fails with this message, and the same call without the changes still works."""
    function, arguments = getattr(losses, loss), minimal(loss)
    leaves = {n: v.requires_grad_() for n, v in arguments.items() if n in embeddings_of(loss)}
    with pytest.raises(error, match=f"^{re.escape(f'{loss}: {message}')}") as caught:
        function(**{**arguments, **changes})
    assert error is not contrastile.InputError or isinstance(caught.value, ValueError)
    assert all(leaf.grad is None and leaf._version == 0 for leaf in leaves.values())
    function(**arguments).backward()


@contextmanager
def meta_as_a_device() -> Iterator[None]:
    """Tensors on the meta device pass for tensors of a second device that can compute."""
    known = plain.PLAIN
    plain.PLAIN |= plain.keys("Meta", "AutogradMeta")
    yield
    plain.PLAIN = known


each_loss = pytest.mark.parametrize("loss", LOSSES)
with_two_sides = pytest.mark.parametrize("loss", [n for n in LOSSES if len(embeddings_of(n)) == 2])
# Row i of one set belongs to row i of the other: one id tells of both.
PARTNERS = [name for name, entry in REGISTRY.items() if "ids" in entry.options]
with_partners = pytest.mark.parametrize("loss", PARTNERS)
