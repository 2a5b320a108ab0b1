"""A tuple of named tuples of tensors as one list, for autograd and the registered ops, and back.

Two levels and no recursion: a step does it twice, and a call for each of twenty parts took a tenth
of it at N = 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

# Of each named tuple its class and, of each field: None, ONE tensor, or how many in a tuple.
ONE = -1
Layout = tuple[type, list[tuple[type, list[int | None]] | None]]


def flatten(value: Any) -> tuple[list[Tensor], Layout]:
    """The tensors of a tuple of named tuples, and the layout to put them back in."""
    tensors: list[Tensor] = []
    parts: list[tuple[type, list[int | None]] | None] = []
    for part in value:
        if part is None:
            parts.append(None)
            continue
        fields: list[int | None] = []
        for field in part:
            if field is None:
                fields.append(None)
            elif type(field) is tuple:
                fields.append(len(field))
                tensors += field
            else:
                fields.append(ONE)
                tensors.append(field)
        parts.append((type(part), fields))
    return tensors, (type(value), parts)


def unflatten(tensors: Sequence[Tensor], layout: Layout) -> Any:
    """What :func:`flatten` was given."""
    kind, parts = layout
    made: list[Any] = []
    at = 0
    for part in parts:
        if part is None:
            made.append(None)
            continue
        values: list[Any] = []
        for count in part[1]:
            if count is None:
                values.append(None)
            elif count == ONE:
                values.append(tensors[at])
                at += 1
            else:
                values.append(tuple(tensors[at : at + count]))
                at += count
        made.append(part[0](*values))
    return kind(*made)
