"""Tensors that are not plain memory, in every argument of every loss: right, or one clear error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import contrastile.functional as losses
import pytest
import torch
from cases import LOSSES
from contrastile import InputError
from everything import everything, tensors
from rejections import meta_as_a_device
from torch import Tensor
from wrappers import REFUSED, TAKEN, Wrapper

each_loss = pytest.mark.parametrize("loss", LOSSES)


@pytest.mark.parametrize("wrapper", REFUSED, ids=lambda wrapper: wrapper.name)
@each_loss
@pytest.mark.filterwarnings("ignore")
def test_refused(loss: str, wrapper: Wrapper) -> None:
    given = everything(loss)
    for name, tensor in tensors(given).items():
        if wrapper.fits(tensor):
            wrapped = {**given, name: wrapper.wrap(tensor)}
            with pytest.raises(InputError, match=f"^{loss}: {name} .*{re.escape(wrapper.says)}"):
                getattr(losses, loss)(**wrapped)


@each_loss
def test_one_device(loss: str) -> None:
    given = everything(loss)
    first, *others = tensors(given)
    with meta_as_a_device():
        for name in others:
            rule = f"^{loss}: {name} must be on cpu as {first} is, got meta$"
            with pytest.raises(InputError, match=rule):
                getattr(losses, loss)(**{**given, name: given[name].to("meta")})


@pytest.mark.parametrize("kind", TAKEN)
@each_loss
def test_taken(loss: str, kind: str) -> None:
    given = everything(loss)
    expected = getattr(losses, loss)(**given)
    for name, tensor in tensors(given).items():
        got: Any = getattr(losses, loss)(**{**given, name: TAKEN[kind](tensor)})
        torch.testing.assert_close(got.as_subclass(Tensor), expected, msg=name)


# What would kill the process if the gate let it in, in a process of its own.

DANGEROUS = """
import contrastile.functional as losses
import torch
from cases import LOSSES
from everything import everything, of_one, tensors
from torch._subclasses import FakeTensor, FakeTensorMode


def emptied(tensor):
    lost = tensor.clone()
    lost.untyped_storage().resize_(0)
    return lost


def shrunk(tensor):
    lost = torch.stack([tensor, tensor], -1)[..., 0]
    lost.untyped_storage().resize_((2 * tensor.numel() - 2) * tensor.itemsize)
    return lost


def said(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return "nothing"


for loss in LOSSES:
    given = everything(loss)
    for name, tensor in tensors(given).items():
        for lose in (emptied, shrunk):
            wrong = said(getattr(losses, loss), **{**given, name: lose(tensor)})
            assert wrong == f"{loss}: {name} has lost its memory: its storage was freed or resized"
    function, x = of_one(loss)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert type(function(torch.empty(x.shape))) is FakeTensor
        assert type(function(x)) is FakeTensor
    result = function(x.requires_grad_())
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert said(result.backward).startswith(f"{loss}: the gradient of its result is a Fake")
print("alive")
"""


def test_nothing_kills_the_process() -> None:
    run = subprocess.run(
        [sys.executable, "-c", DANGEROUS],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (run.returncode, run.stdout) == (0, "alive\n"), run.stderr
