"""Which Triton the backend takes, and what it says of one that is too old or not there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import contrastile
import pytest
import torch
from contrastile.backends.triton import TritonBackend, backend


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a version of Triton the installed one; None: there is none."""

    def become(version: str | None) -> None:
        module = None if version is None else SimpleNamespace(__version__=version)
        monkeypatch.setitem(sys.modules, "triton", module)
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: module)
        backend.installed_triton.cache_clear()

    yield become
    backend.installed_triton.cache_clear()


@pytest.mark.parametrize("version", ["3.5.0", "3.10.1+gitabc", "4.0"])
def test_new_enough(version: str, installed: Any) -> None:
    installed(version)
    assert TritonBackend().available() is None


@pytest.mark.parametrize("version", ["3.4.0", "2.9.1"])
def test_too_old(version: str, installed: Any) -> None:
    installed(version)
    reason = TritonBackend().available()
    assert reason is not None
    assert reason.startswith(f"triton {version} is too old, its kernels need 3.5 or newer: ")
    assert "torch 2.9" in reason


def test_missing(installed: Any) -> None:
    """Whoever asked for the backend is told how to get it."""
    installed(None)
    x = torch.eye(4)
    with pytest.raises(contrastile.InputError, match="a GPU build of torch brings its own") as said:
        contrastile.clip_loss(x, x, temperature=0.5, backend="triton")
    assert "pip install 'contrastile[triton]'" in str(said.value)


def test_the_interpreter_as_triton_has_it_is_not_trusted_with_bf16() -> None:
    """It multiplies their bits as integers; the tests bring a corrected one."""
    program = """
import torch
from contrastile import clip_loss
x = torch.eye(4)
print(float(clip_loss(x, x, temperature=0.5, backend="triton")))
clip_loss(x.bfloat16(), x.bfloat16(), temperature=0.5, backend="triton")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("0.340")
    assert "interpreter multiplies bf16 wrongly" in done.stderr.splitlines()[-1]
