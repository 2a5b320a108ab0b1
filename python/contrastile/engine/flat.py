"""Nested tuples of tensors as one list, for autograd and the registered ops, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

# What a nested tuple looks like: in place of each tensor its place in the list.
Form = Any


def flatten(value: Any) -> tuple[list[Tensor], Form]:
    """The tensors of nested (named) tuples, and the form to put them back in."""
    tensors: list[Tensor] = []
    return tensors, _form(value, tensors)


def unflatten(tensors: Sequence[Tensor], form: Form) -> Any:
    """What :func:`flatten` was given."""
    if form is None:
        return None
    if isinstance(form, int):
        return tensors[form]
    kind, parts = form
    made = [unflatten(tensors, part) for part in parts]
    return tuple(made) if kind is tuple else kind(*made)


def _form(value: Any, tensors: list[Tensor]) -> Form:
    if value is None:
        return None
    if isinstance(value, Tensor):
        tensors.append(value)
        return len(tensors) - 1
    return type(value), [_form(part, tensors) for part in value]
