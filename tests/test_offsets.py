"""Offsets beyond 2^31 elements: numbers 32 bits wide wrap there, and must not be used.

Memory is a sparse file: only the pages of a few rows exist. Rows lie so far apart that the last
begins beyond 2^31, and as much memory lies before the first: an offset that wrapped is a wrong
number, not a crash. Results must be those of rows side by side, but for roundings: how far apart
rows are may decide how a BLAS multiplies them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import contrastile.functional as losses
import pytest
import torch
from contrastile.backends.gpu import forms
from contrastile.backends.gpu.strips import StripMemory
from contrastile.backends.triton import TritonBackend
from contrastile.backends.triton.launch import INTERPRETED, Purpose, trying
from contrastile.engine.job import Job
from contrastile.engine.plan import Block, Keeping
from torch import Tensor

ROWS, SIZE = 20, 8
WRAPS = 2**31
Place = Callable[[tuple[int, int], torch.dtype], Tensor]
Results = list[Tensor]


@pytest.fixture
def sparse(tmp_path: Path) -> Place:
    """Rows too far apart for 32 bits, in memory of their own."""

    def place(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        rows, size = shape
        # Rows begin on 16 bytes in every dtype.
        stride = WRAPS // (rows - 1) // 8 * 8 + 8
        file = tmp_path / "sparse"
        elements = WRAPS + (rows - 1) * stride + size
        storage = torch.from_file(str(file), shared=True, size=elements, dtype=dtype)
        file.unlink()
        return storage.as_strided((rows, size), (stride, 1), WRAPS)

    return place


@pytest.fixture(params=["descriptors", "pointers"], autouse=True)
def either_launch(request: pytest.FixtureRequest) -> Iterator[None]:
    descriptors = request.param == "descriptors"
    launch = replace(INTERPRETED, descriptors=descriptors)
    with trying({(kind, p): launch for kind in ("half", "single") for p in Purpose}):
        yield


@pytest.fixture(
    params=[pytest.param("one form", marks=pytest.mark.gates), "both forms"], autouse=True
)
def either_form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "both forms":
        monkeypatch.setattr(forms, "SMALL", 0)


def embeddings(dtype: torch.dtype) -> list[Tensor]:
    return [torch.nn.functional.normalize(torch.randn(ROWS, SIZE), dim=1).to(dtype) for _ in "xy"]


def evaluate(loss: str, x: Tensor, y: Tensor, **options: Any) -> Results:
    """The loss, and its gradients by embeddings and scale."""
    scale = torch.tensor(5.0, requires_grad=True)
    leaves = [x.detach().requires_grad_(), y.detach().requires_grad_(), scale]
    value = getattr(losses, loss)(*leaves[:2], logit_scale=scale, backend="triton", **options).sum()
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def assert_same(got: Results, expected: Results) -> None:
    for mine, right in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("side", [0, 1], ids=["query", "key"])
def test_embeddings(side: int, dtype: torch.dtype, sparse: Place) -> None:
    pair = embeddings(dtype)
    far = [*pair]
    far[side] = sparse((ROWS, SIZE), dtype).copy_(pair[side])
    assert far[side].stride(0) * (ROWS - 1) > WRAPS
    assert_same(evaluate("clip_loss", *far), evaluate("clip_loss", *pair))


@pytest.mark.parametrize("loss", ["clip_loss", "nt_xent", "siglip_loss"])
def test_strips_of_weights(loss: str, sparse: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the positives put into them; on a diagonal also the mirror images of tiles."""
    pair = embeddings(torch.float32)
    expected = evaluate(loss, *pair)
    strips = []

    def strip(self: StripMemory, height: int, width: int) -> Tensor:
        strips.append(sparse((height, width), self.memory.dtype))
        return strips[-1]

    monkeypatch.setattr(StripMemory, "strip", strip)
    assert_same(evaluate(loss, *pair), expected)
    assert strips and all(each.stride(0) * (len(each) - 1) > WRAPS for each in strips)


@pytest.mark.parametrize("loss", ["clip_loss", "nt_xent", "siglip_loss"])
def test_kept_dot_products(loss: str, sparse: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a loss of each row: its weights are not known at the first look at the scores."""
    monkeypatch.setattr(TritonBackend, "keeping", lambda *_: Keeping(0))
    pair = embeddings(torch.float32)
    expected = evaluate(loss, *pair, reduction="none")
    kept: dict[Block, Tensor] = {}

    def far(job: Job, block: Block) -> Tensor | None:
        if block.kept_at is None:
            return None
        if block not in kept:
            kept[block] = sparse(block.shape, job.sizes.dtype)
        return kept[block]

    monkeypatch.setattr(Job, "kept_dots", far)
    assert_same(evaluate(loss, *pair, reduction="none"), expected)
    assert kept and all(each.any() for each in kept.values())
