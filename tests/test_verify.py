"""The command says that a right loss agrees, and does not let a spoiled one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
import torch
from contrastile import verify
from contrastile.backends.triton import backend as triton
from contrastile.cli import main
from contrastile.losses.registry import LOSSES
from contrastile.problem import InputError
from torch import Tensor

Change = Callable[[Tensor, tuple[Tensor, ...]], Tensor]


@pytest.fixture(autouse=True)
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user: the tests alone have Triton compute on the CPU."""
    monkeypatch.setattr(triton, "interpreting", lambda: False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two losses of different kinds, in fp32."""
    # Dictionaries of their own: what is put back into one stands at its end.
    two = {name: LOSSES[name] for name in ("siglip_loss", "supcon_loss")}
    monkeypatch.setattr(verify, "LOSSES", two)
    monkeypatch.setattr(verify, "DTYPES", {"fp32": verify.DTYPES["fp32"]})


def spoil(monkeypatch: pytest.MonkeyPatch, loss: str, change: Change) -> None:
    """``loss`` returns what ``change`` makes of its value and its tensors."""
    entry = LOSSES[loss]

    @wraps(entry.function)
    def spoiled(*tensors: Tensor, **options: Any) -> Tensor:
        value = entry.function(*tensors, **options)
        assert isinstance(value, Tensor)
        return change(value, tensors)

    monkeypatch.setitem(verify.LOSSES, loss, replace(entry, function=spoiled))


def test_every_loss_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--device", "cpu", "--backend", "cpu"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"{2 * len(LOSSES)} of {2 * len(LOSSES)} agree with the formula in fp64"
    said = [line.split() for line in lines[1:]]
    asked = [["cpu", "cpu", dtype, loss] for dtype in verify.DTYPES for loss in LOSSES]
    assert [words[:4] for words in said] == asked
    assert all(words[-1] == "ok" for words in said)


@pytest.mark.usefixtures("quick")
def test_all_backends_of_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 0
    said = capsys.readouterr().out
    for backend in ("cpu", "reference"):
        assert f"  cpu     {backend:11}fp32   siglip_loss" in said
    for backend in ("triton", "cuda"):
        assert f"  not computed by {backend} on cpu: " in said


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda value, tensors: value * 1.001, "loss, gradient of embedding 0"),
        (lambda value, tensors: value + 1e-3, "loss"),
        (lambda value, tensors: value * torch.nan, "loss, gradient of embedding 0"),
        (
            lambda value, tensors: value + (tensors[0] - tensors[0].detach()).sum(),
            "gradient of embedding 0",
        ),
        (lambda value, tensors: value.detach() + 0 * value, "gradient of embedding 0"),
    ],
    ids=["factor", "offset", "NaN", "gradient", "no gradient"],
)
def test_a_spoiled_loss_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: Change, wrong: str
) -> None:
    spoil(monkeypatch, "supcon_loss", change)
    assert main(["verify", "--backend", "cpu"]) == 1
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if "WRONG" in line]
    assert "supcon_loss" in line and f"WRONG: {wrong}" in line
    assert said.endswith("1 of 2 agree with the formula in fp64\n")


@pytest.mark.usefixtures("quick")
def test_a_loss_that_no_backend_computes_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--backend", "cuda", "--device", "cpu"]) == 1
    assert "0 of 0 agree" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_an_error_of_a_loss_is_not_a_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(value: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        raise InputError("supcon_loss: no")

    spoil(monkeypatch, "supcon_loss", change)
    assert main(["verify", "--backend", "cpu"]) == 2
    assert capsys.readouterr().err == "supcon_loss: no\n"


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [("--device", "tpu", "cpu"), ("--backend", "best", "cpu, triton, cuda, reference")],
)
def test_unknown_names(
    capsys: pytest.CaptureFixture[str], option: str, value: str, known: str
) -> None:
    assert main(["verify", option, value]) == 2
    assert capsys.readouterr().err.startswith(f"verify: {value!r} is not one of {known}")
