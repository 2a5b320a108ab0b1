"""Which cases the test command runs, and which it leaves to the gates."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def rest_in_gates(values: Iterable[Any], first: Collection[Any]) -> list[Any]:
    """Parameters of a test: all but the ``first`` are marked for the gates."""
    gates = pytest.mark.gates
    return [v if v in first else pytest.param(*as_tuple(v), marks=gates) for v in values]


def as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
