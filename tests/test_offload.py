"""Embeddings that stay in the host's memory, strip by strip and shard by shard."""

from __future__ import annotations

import random
from pathlib import Path

import contrastile
import oracles
import pytest
import torch
from cases import LOSSES, arguments_for, covering_choices, default_choice
from contrastile import functional
from contrastile.parallel import host
from contrastile.parallel.shares import Share
from rank_cases import close, detached, leaves
from torch import Tensor


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of five numbers."""
    monkeypatch.setattr(host.HostSource, "height", lambda *_: 3)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients(loss: str) -> None:
    rng = random.Random(loss)
    for seed, choice in enumerate(covering_choices(loss, 2, 25)):
        rows = rng.choice([1, 2, 7, 12])
        given = arguments_for(loss, {**choice, "shape": (rows, 5)}, seed)
        if "weights" in given:
            given["weights"].requires_grad_()
        own = detached(given)
        truth = getattr(oracles, loss)(**given)
        found = getattr(functional, loss)(**own, offload="cpu")
        close("loss", found, truth)
        truth.sum().backward()
        found.sum().backward()
        for name, leaf in leaves(own).items():
            wanted = given[name].grad
            assert leaf.grad is not None
            close(name, leaf.grad, torch.zeros_like(leaf) if wanted is None else wanted)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("loss", LOSSES)
def test_stats(loss: str) -> None:
    given = detached(arguments_for(loss, default_choice(loss, shape=(8, 5))))
    _, stats = getattr(functional, loss)(**given, return_stats=True, offload="cpu")
    _, whole = getattr(functional, loss)(**given, return_stats=True)
    for name, value in vars(whole).items():
        if isinstance(value, Tensor):
            close(name, getattr(stats, name).double(), value.double())


def mapped(path: Path, values: Tensor) -> Tensor:
    file = torch.from_file(str(path), shared=True, size=values.numel(), dtype=values.dtype)
    return file.view(values.shape).copy_(values)


def test_a_mapped_file_gets_its_gradient_in_one(tmp_path: Path) -> None:
    values = torch.nn.functional.normalize(torch.randn(2, 300, 8), dim=2)
    x, y = (mapped(tmp_path / f"{i}", own).requires_grad_() for i, own in enumerate(values))
    contrastile.clip_loss(x, y, temperature=0.1, offload="cpu").backward()
    plain = [own.clone().requires_grad_() for own in values]
    contrastile.clip_loss(*plain, temperature=0.1).backward()
    for found, wanted in zip((x, y), plain, strict=True):
        assert found.grad is not None and wanted.grad is not None
        assert found.grad.untyped_storage().filename is not None
        torch.testing.assert_close(found.grad, wanted.grad)


def test_what_it_refuses() -> None:
    x = torch.eye(4)
    with pytest.raises(contrastile.InputError, match="offload must be one of cpu, got 'disk'"):
        contrastile.clip_loss(x, x, temperature=0.1, offload="disk")


def test_a_shard_has_so_many_bytes() -> None:
    """In the dtype that is computed in."""
    source = host.HostSource(Share((10,), 0), torch.device("cpu"), shard_bytes=4 * 5 * 4)
    keys = torch.randn(10, 5).bfloat16()
    sizes = [shard.keys.shape[0] for shard in source.trip(keys, None, None).shards()]
    assert sizes == [4, 4, 2]
