"""gradient_cache: the second pass is the first one again; what they cost, and who is told."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from contrastile import ClipLoss, ContrastileWarning, clip_loss, nt_xent
from contrastile.problem.advice import GIVEN
from contrastile.training import GradientCache, gradient_cache
from contrastile.training.wrappers import modules_behind
from torch import Tensor, nn
from towers import ROWS, SIZE, SUB_BATCH, assert_same, in_pieces, linear, rows, taken, with_dropout


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    GIVEN.clear()


# Random numbers, autocast, the scaler.


def test_dropout_is_replayed_and_random_numbers_go_on_as_after_one_pass() -> None:
    encoder, x, y = with_dropout(), rows(), rows()

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        return nt_xent(x + torch.randn_like(x), y, temperature=1.0)

    torch.manual_seed(1)
    expected = loss_fn(in_pieces(encoder, x), in_pieces(encoder, y))
    expected.backward()
    gradients, state = taken(*encoder.parameters()), torch.get_rng_state()
    torch.manual_seed(1)
    found = gradient_cache(loss_fn, [(encoder, x), (encoder, y)], sub_batch=SUB_BATCH)
    assert_same([found], [expected.detach()])
    assert_same(taken(*encoder.parameters()), gradients)
    assert torch.equal(torch.get_rng_state(), state)


class Accelerator:
    """The random generators of two devices, as ``torch.cuda`` would show them."""

    def __init__(self) -> None:
        self.generators = [torch.Generator().manual_seed(index) for index in range(2)]

    def get_rng_state(self, index: int) -> Tensor:
        return self.generators[index].get_state()

    def set_rng_state(self, state: Tensor, index: int) -> None:
        self.generators[index].set_state(state)


def test_every_device_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator, encoder, x = Accelerator(), linear(), rows()
    loss = partial(clip_loss, y=rows(), temperature=1.0)

    def noisy(x: Tensor) -> Tensor:
        for generator in accelerator.generators:
            x = x * torch.randn(x.shape, generator=generator)
        return encoder(x)

    loss(in_pieces(noisy, x)).backward()
    expected, after = taken(*encoder.parameters()), accelerator.get_rng_state(1)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda _: accelerator)
    for index, generator in enumerate(accelerator.generators):
        generator.manual_seed(index)
    gradient_cache(loss, [(noisy, x)], sub_batch=SUB_BATCH)
    assert_same(taken(*encoder.parameters()), expected)
    assert torch.equal(accelerator.get_rng_state(1), after)


def test_autocast_is_that_of_the_first_pass() -> None:
    encoder = nn.Sequential(nn.Linear(SIZE, 32), nn.GELU(), nn.Linear(32, SIZE))
    x, y, dtypes = torch.randn(ROWS, SIZE), torch.randn(ROWS, SIZE), set()

    def observed(x: Tensor) -> Tensor:
        made = encoder(x)
        dtypes.add(made.dtype)
        return made

    loss = ClipLoss(temperature=1.0, normalize=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = loss(in_pieces(encoder, x), in_pieces(encoder, y))
    expected.backward()
    gradients = taken(*encoder.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        gradient_cache(loss, [(observed, x), (observed, y)], sub_batch=SUB_BATCH)
    inside = taken(*encoder.parameters())
    with GradientCache(SUB_BATCH) as cache:
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(cache(observed, x), cache(observed, y))
        cache.backward(value)
    assert dtypes == {torch.bfloat16}
    assert_same(inside, gradients, 2**-7)
    assert_same(taken(*encoder.parameters()), inside, 0.0)


def test_a_scaler_scales_gradients_and_not_the_loss() -> None:
    encoder, x = linear(), rows()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loss = partial(clip_loss, y=rows(), temperature=1.0)
    loss(encoder(x)).backward()
    expected = taken(*encoder.parameters())
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0)
    before = [each.detach().clone() for each in encoder.parameters()]
    value = gradient_cache(loss, [(encoder, x)], sub_batch=SUB_BATCH, scaler=scaler)
    assert_same([value], [loss(encoder(x)).detach()])
    assert_same([each.grad / 1024.0 for each in encoder.parameters()], expected)
    scaler.step(optimizer)
    assert_same([a - b for a, b in zip(before, encoder.parameters(), strict=True)], expected)


# What it costs.


@dataclass(frozen=True, eq=False)
class Kept:
    """A tensor that a graph holds."""

    tensor: Tensor


class Meter:
    """The most bytes that graphs of an encoder held at a time, and how often it ran."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder, self.held, self.peak, self.calls = encoder, 0, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept.tensor):
            return self.encoder(x)

    def _keep(self, tensor: Tensor) -> Kept:
        kept = Kept(tensor.detach())
        self._add(tensor.nbytes)
        weakref.finalize(kept, self._add, -tensor.nbytes)
        return kept

    def _add(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)


def test_activations_do_not_grow_with_the_batch() -> None:
    encoder = nn.Sequential(nn.Linear(SIZE, 64), nn.GELU(), nn.Linear(64, SIZE))

    def peak(count: int) -> int:
        meter = Meter(encoder)
        towers = [(meter, torch.randn(count, SIZE)), (meter, torch.randn(count, SIZE))]
        gradient_cache(ClipLoss(temperature=1.0, normalize=True), towers, sub_batch=16)
        assert meter.held == 0
        assert meter.calls == 2 * 2 * count // 16
        return meter.peak

    one = Meter(encoder)
    kept = one(torch.randn(16, SIZE))
    assert peak(512) == peak(32) == one.peak > 0
    assert kept.requires_grad


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    gradient_cache(
        ClipLoss(temperature=1.0),
        [(linear(), rows(6)), (linear(), rows(6))],
        sub_batch=4,
        progress=lambda *stage: told.append(stage),
    )
    encoded = [("encode", 1, 2), ("encode", 2, 2)]
    assert told == 2 * encoded + [("gradients", done, 4) for done in (1, 2, 3, 4)]


def test_a_frozen_tower_is_encoded_once() -> None:
    frozen, trained = Meter(linear().requires_grad_(False)), linear()
    loss = ClipLoss(temperature=1.0)
    gradient_cache(loss, [(frozen, rows()), (trained, rows())], sub_batch=SUB_BATCH)
    # And one sub-batch more, to see that it is.
    assert frozen.calls == 5 + 1
    assert trained.weight.grad is not None
    with pytest.warns(ContrastileWarning, match="no output of an encoder requires grad"):
        gradient_cache(loss, [(frozen, rows()), (frozen, rows())], sub_batch=SUB_BATCH)


def test_a_tower_that_the_loss_leaves_out_gets_nothing() -> None:
    used, unused, x = linear(), linear(), rows()
    gradient_cache(lambda e, _: e.square().sum(), [(used, x), (unused, x)], sub_batch=SUB_BATCH)
    assert used.weight.grad is not None and unused.weight.grad is None


# Batch norm.


def test_batch_norm_is_told_and_counts_once() -> None:
    encoder = nn.Sequential(linear(), nn.BatchNorm1d(SIZE, dtype=torch.float64))
    once, x = copy.deepcopy(encoder), rows(20)
    in_pieces(once, x)
    with pytest.warns(ContrastileWarning, match="BatchNorm in training mode"):
        gradient_cache(Tensor.sum, [(encoder, x)], sub_batch=SUB_BATCH)
    assert encoder[1].track_running_stats is True
    assert_same(list(encoder.buffers()), list(once.buffers()))


# Modules behind an encoder.


class Trainer:
    """What encoders are often methods of."""

    def __init__(self, model: nn.Module) -> None:
        self.towers = {"image": model}

    def encode(self, x: Tensor) -> Tensor:
        return self.towers["image"](x)


MODEL = linear()


def by_name(x: Tensor) -> Tensor:
    return MODEL(x)


@pytest.mark.parametrize(
    "encoder",
    [
        MODEL,
        MODEL.forward,
        partial(by_name, x=None),
        lambda x: by_name(x),
        Trainer(MODEL).encode,
        nn.Sequential(MODEL),
        torch.compile(MODEL),
        torch.no_grad()(MODEL.forward),
    ],
)
def test_modules_are_found(encoder: Callable[..., Any]) -> None:
    assert MODEL in modules_behind(encoder)
