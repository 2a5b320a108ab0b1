"""Nothing is read or written beside the memory it belongs to: the interpreter itself would not say.

Whatever the backend allocates lies between two canaries, bytes that must be the same afterwards;
embeddings lie between rows of NaN, which would show in any sum that took them in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import contrastile.functional as losses
import oracles
import pytest
import torch
from cases import LOSSES, arguments_for, default_choice
from contrastile.backends.gpu import forms
from contrastile.backends.triton import launch
from contrastile.backends.triton.launch import INTERPRETED
from helpers import assert_results_close, evaluate, upstream_of
from selected import rest_in_gates
from torch import Tensor

GUARD, SONG = 256, 0xA5
Shape = tuple[int, ...]


class Canaries:
    """Allocates between two guards, and says whether they still sing."""

    def __init__(self, empty: Callable[..., Tensor]) -> None:
        self.empty = empty
        self.cages: list[Tensor] = []

    def make(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        cage = self.empty(size + 2 * GUARD, dtype=torch.uint8)
        cage.fill_(SONG)
        self.cages.append(cage)
        return cage[GUARD : GUARD + size].view(dtype).view(shape)

    def silent(self) -> int:
        """How many of the allocations were written beside."""
        ends = [(cage[:GUARD], cage[-GUARD:]) for cage in self.cages]
        return sum(not bool((torch.cat(pair) == SONG).all()) for pair in ends)


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> Iterator[Canaries]:
    """Stand in for torch's factories while a loss runs."""
    kept = Canaries(torch.empty)

    def flat(size: Any) -> Shape:
        return tuple(size[0]) if size and isinstance(size[0], (tuple, list, torch.Size)) else size

    def empty(*size: Any, dtype: torch.dtype | None = None, device: object = None) -> Tensor:
        return kept.make(flat(size), dtype or torch.float32)

    def zeros(*size: Any, dtype: torch.dtype | None = None, device: object = None) -> Tensor:
        return empty(*size, dtype=dtype).zero_()

    def empty_like(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return empty(*like.shape, dtype=dtype or like.dtype)

    def full(size: Shape, value: float, dtype: torch.dtype, device: object = None) -> Tensor:
        return empty(*size, dtype=dtype).fill_(value)

    for name, factory in (
        ("empty", empty),
        ("zeros", zeros),
        ("empty_like", empty_like),
        ("full", full),
    ):
        monkeypatch.setattr(torch, name, factory)
    yield kept


def between_nan(x: Tensor) -> Tensor:
    """The same matrix with rows of NaN before and after it, and 16 bytes of NaN beside it."""
    rows, size = x.shape
    around = x.new_full((rows + 2, size + 16 // x.element_size()), math.nan)
    around[1:-1, :size] = x.detach()
    return around[1:-1, :size].requires_grad_(x.requires_grad)


@pytest.mark.parametrize(
    "descriptors",
    [True, pytest.param(False, marks=pytest.mark.gates)],
    ids=["descriptors", "pointers"],
)
@pytest.mark.parametrize("kind", rest_in_gates(["small", "both forms", "strips"], ["strips"]))
@pytest.mark.parametrize("loss", LOSSES)
def test_memory_beside(
    loss: str, kind: str, descriptors: bool, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    choice = default_choice(loss, shape=(37, 20), scale="logit_scale tensor", ids="few")
    arguments = arguments_for(loss, choice)
    expected = evaluate(getattr(oracles, loss), arguments)
    caged = {
        name: between_nan(value) if isinstance(value, Tensor) and value.dim() == 2 else value
        for name, value in arguments.items()
    }
    monkeypatch.setattr(launch, "INTERPRETED", replace(INTERPRETED, descriptors=descriptors))
    launch.forget()
    if kind != "small":
        monkeypatch.setattr(forms, "SMALL", 0)
    workspace = 6000 if kind == "strips" else None
    canaries: Canaries = request.getfixturevalue("canaries")
    function = getattr(losses, loss)
    leaves = {
        name: value
        for name, value in caged.items()
        if isinstance(value, Tensor) and value.requires_grad
    }
    value = function(**caged, workspace=workspace, backend="triton")
    value.backward(upstream_of(value))
    assert canaries.cages
    assert canaries.silent() == 0
    monkeypatch.undo()
    launch.forget()
    got = {"loss": value.detach(), **{name: leaf.grad for name, leaf in leaves.items()}}
    assert_results_close(got, expected)


def test_a_canary_falls_silent(canaries: Canaries) -> None:
    """The guards can tell: one number written beside."""
    x = torch.empty(4, dtype=torch.float32)
    torch.as_strided(x, (5,), (1,))[4] = 1.0
    assert canaries.silent() == 1
