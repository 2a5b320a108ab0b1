"""Dot products that outlive the forward pass of the Triton backend: they save work, no more."""

from __future__ import annotations

from typing import Any

import contrastile.functional as losses
import pytest
import torch
from cases import arguments_for, default_choice
from contrastile.backends.triton import TritonBackend
from contrastile.backends.triton.bound import Bound
from contrastile.backends.triton.device import Device
from contrastile.backends.triton.launch import FOLDER, Purpose, pick
from contrastile.backends.triton.program import Tiles
from contrastile.engine.forward import plans_of
from contrastile.engine.plan import Keeping
from helpers import assert_results_close, cast, evaluate

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ALWAYS, NEVER = Keeping(0), Keeping(2**62)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every pass over weights, whether it read what the forward pass had kept."""
    seen: list[bool] = []
    start = Bound.start

    def recorded(self: Bound, tiles: Tiles, *arguments: Any) -> None:
        if "KEPT" in tiles.start.constants:
            seen.append(tiles.start.constants["KEPT"])
        start(self, tiles, *arguments)

    monkeypatch.setattr(Bound, "start", recorded)
    return seen


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", ["clip_loss", "nt_xent", "siglip_loss", "multi_positive_nce"])
def test_kept_dot_products_change_no_gradient(
    loss: str, dtype: torch.dtype, kept: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As one number siglip_loss looks at its scores once, so that there is nothing to be kept.
    reduction = "none" if loss == "siglip_loss" else "mean"
    changes = {"shape": (37, 20), "scale": "logit_scale tensor", "ids": "few"}
    choice = default_choice(loss, reduction=reduction, **changes)
    arguments = cast(arguments_for(loss, choice), dtype)
    if dtype != torch.float64:
        arguments = cast(arguments, torch.float32, "logit_scale")
    found = []
    for keeping in (ALWAYS, NEVER):
        kept.clear()
        monkeypatch.setattr(TritonBackend, "keeping", lambda *_, to=keeping: to)
        plans_of.cache_clear()
        found.append(evaluate(getattr(losses, loss), arguments, backend="triton"))
        assert set(kept) == {keeping is ALWAYS}
    plans_of.cache_clear()
    # Products of other tiles round otherwise: a score by eps of its scale, a gradient to its dtype.
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    scale = float(arguments["logit_scale"].detach())
    assert_results_close(*found, rtol=4 * (1 + scale) * eps + torch.finfo(dtype).eps)


def test_another_backward_pass_finds_them_too(kept: list[bool]) -> None:
    x, y = (torch.randn(30, 8, requires_grad=True) for _ in "xy")
    loss = losses.clip_loss(x, y, temperature=0.5, backend="triton")
    loss.backward(retain_graph=True)
    first = x.grad
    assert first is not None
    assert set(kept) == {True}
    kept.clear()
    x.grad = None
    loss.backward()
    assert set(kept) == {True}
    assert torch.equal(x.grad, first)


@pytest.mark.parametrize("reductions", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("arch", [*sorted(p.stem for p in FOLDER.glob("*.json")), "interpreter"])
def test_a_diagonal_keeps_every_tile_that_its_weights_read(
    arch: str, dtype: torch.dtype, reductions: int
) -> None:
    """The squares on a diagonal are as large as a tile's longer side, see side_of_diagonal."""
    device = Device(arch, 100)
    read = pick(device, dtype, Purpose.WEIGH_KEPT, reductions)
    # Of a small problem the general form keeps them.
    for purpose in (Purpose.REDUCE_AND_KEEP, Purpose.REDUCE_GENERAL):
        made = pick(device, dtype, purpose, reductions)
        assert max(made.rows, made.cols) % max(read.rows, read.cols) == 0
