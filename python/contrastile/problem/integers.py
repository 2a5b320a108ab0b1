"""The checks of integers, and of sequences of them or of other numbers."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from operator import index
from typing import Any

import torch


def check_integer(caller: str, name: str, value: object) -> int:
    """``value`` is an integer, numpy's too, but no truth value; returned as Python's."""
    if isinstance(value, bool) or not isinstance(value, (Integral, torch.SymInt)):
        raise TypeError(f"{caller}: {name} must be an integer, got {type(value).__name__}")
    return index(value)


def check_sequence(caller: str, name: str, value: object, kind: str) -> Sequence[Any]:
    """``value`` is a list, a tuple or another sequence of such a kind, and no text."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        remedy = f"; use {name}.tolist()" if hasattr(value, "tolist") else ""
        got = type(value).__name__
        raise TypeError(f"{caller}: {name} must be a sequence of {kind}, got {got}{remedy}")
    return value


def check_integer_sequence(caller: str, name: str, value: object) -> tuple[int, ...]:
    """``value`` is a sequence of integers."""
    parts = enumerate(check_sequence(caller, name, value, "integers"))
    return tuple([check_integer(caller, f"{name}[{i}]", part) for i, part in parts])
