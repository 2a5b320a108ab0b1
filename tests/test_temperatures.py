"""A temperature that is not positive: an error where values may be read, else a NaN loss."""

from __future__ import annotations

from typing import Any

import contrastile
import contrastile.functional as losses
import contrastile.native
import pytest
import torch
from cases import LOSSES
from contrastile.problem import values
from contrastile.testing import checked_values
from helpers import SELF_MODE
from rejections import ROWS, each_loss, embeddings_of, meta_as_a_device, minimal, rejected
from torch import Tensor
from waits import as_on_a_device

# Losses of one set take one scale alone; see test_validation.py.
PER_ROW = [name for name in LOSSES if name not in SELF_MODE]
WRONG = [0.0, -0.07, float("nan"), -float("inf")]


def call(loss: str, temperature: Tensor, **options: Any) -> Tensor:
    arguments = minimal(loss) | {"temperature": temperature}
    for seed, name in enumerate(embeddings_of(loss)):
        rows = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(seed))
        arguments[name] = torch.nn.functional.normalize(rows, dim=1).requires_grad_()
    if "labels" in arguments:
        arguments["labels"] = torch.arange(ROWS) // 2
    return getattr(losses, loss)(**arguments, **options)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_are_read_on_the_cpu(loss: str, dtype: torch.dtype) -> None:
    for value in WRONG:
        temperature = torch.tensor(value, dtype=dtype, requires_grad=True)
        message = f"temperature must be positive, got {temperature.item():g}; learn its logarithm"
        rejected(loss, message, temperature=temperature)


@pytest.mark.parametrize("loss", PER_ROW)
def test_one_wrong_row_is_enough(loss: str) -> None:
    temperature = torch.full((ROWS,), 0.1)
    temperature[3] = 0.0
    rejected(loss, "temperature must be positive, got 0; learn", temperature=temperature)


@each_loss
@pytest.mark.parametrize("backend", ["cpu", "reference", "triton"])
@pytest.mark.parametrize("value", WRONG)
def test_the_loss_is_nan_on_a_device(
    loss: str, backend: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_a_device(monkeypatch, looked=True)
    assert call(loss, torch.tensor(value), backend=backend).isnan()


@pytest.mark.parametrize("loss", PER_ROW)
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_wrong_row_on_a_device(loss: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_device(monkeypatch, looked=True)
    temperature = torch.full((ROWS,), 0.1)
    temperature[3] = -0.1
    assert call(loss, temperature, backend=backend).isnan()


@each_loss
def test_right_ones_are_the_same_on_a_device(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, the loss and what it teaches the temperature, by the same code in both places."""
    monkeypatch.setattr(contrastile.native, "load", lambda: None)
    shapes: list[tuple[int, ...]] = [(), (ROWS,)] if loss in PER_ROW else [()]
    for shape in shapes:
        results = []
        for on_a_device in (False, True):
            with monkeypatch.context() as patch:
                if on_a_device:
                    as_on_a_device(patch, looked=True)
                temperature = torch.linspace(0.1, 0.3, max(1, *shape, 1)).reshape(shape)
                out = call(loss, temperature.requires_grad_())
                out.backward()
                results.append((out, temperature.grad))
        assert torch.equal(*(out for out, _ in results))
        assert torch.equal(*(grad for _, grad in results))


def test_checked_values_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of a device that is not the CPU, as far as the checks can tell."""

    def readable(tensor: Tensor) -> bool:
        return values._EVERYWHERE.get()

    monkeypatch.setattr(values, "readable", readable)
    assert call("clip_loss", torch.tensor(-0.1)).isnan()
    with (
        checked_values(),
        pytest.raises(contrastile.InputError, match=r"temperature must be positive, got -0\.1"),
    ):
        call("clip_loss", torch.tensor(-0.1))
    assert call("clip_loss", torch.tensor(-0.1)).isnan()


def test_where_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu, elsewhere = torch.ones(()), torch.ones((), device="meta")
    assert values.readable(on_cpu) and not values.readable(elsewhere)
    with checked_values():
        assert not values.readable(elsewhere)
        with meta_as_a_device():
            assert values.readable(elsewhere)
            monkeypatch.setattr(values, "capturing", lambda tensor: True)
            assert values.readable(on_cpu) and not values.readable(elsewhere)
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: True)
    assert not values.readable(on_cpu)
