"""The examples run, at reduced length, and learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_supcon(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    before, after = load("digits_supcon").main(steps=10, batch=256)
    assert before > 0.95
    assert after > 0.8
    assert "learned numbers after 10 steps" in capsys.readouterr().out


def test_emoji_translation(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("emoji")
    right = load("emoji_translation").main(steps=10, batch=128)
    assert right > 0.1
    assert "German to English" in capsys.readouterr().out
