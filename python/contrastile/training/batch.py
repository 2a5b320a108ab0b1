"""A batch as an encoder takes it: checked, cut into sub-batches, kept on the host if asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..problem import InputError
from ..problem.checks import shape

ROWS_FIRST = "every tensor of inputs must have one row an item as its first dimension"
BIND = "bind what is the same for all items: functools.partial(encoder, name=value)"


@dataclass(frozen=True)
class Batch:
    """The arguments of an encoder, each tensor with one row an item.

    Args:
        arguments: by position; tensors, None, and tuples, lists and mappings of them.
        options: by name.
        rows: how many items.
        device: where sub-batches are moved to, or None: they stay where they are.
    """

    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    rows: int
    device: torch.device | None = None

    @staticmethod
    def of(caller: str, inputs: object) -> Batch:
        """A tensor is the only argument, a tuple or list the arguments, a mapping the options."""
        rows = _check_rows(caller, dict(_leaves(caller, "inputs", inputs)))
        if isinstance(inputs, Mapping):
            return Batch((), dict(inputs), rows)
        return Batch(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}, rows)

    def on_host(self, device: torch.device | None) -> Batch:
        """The same in host memory, pinned where there is an accelerator.

        Sub-batches are moved to ``device``; by default to where the first tensor on an accelerator
        was, or to the current accelerator.
        """
        if device is None:
            named = _leaves("Batch", "inputs", (*self.arguments, *self.options.values()))
            away = (tensor.device for _, tensor in named if tensor.device.type != "cpu")
            device = next(away, None) or _current_device()
        held = self._map(_pinned if torch.accelerator.is_available() else Tensor.cpu)
        return replace(held, device=device)

    def piece(self, start: int, stop: int) -> Batch:
        """The items from ``start`` to before ``stop``, where the encoder wants them."""

        def cut(tensor: Tensor) -> Tensor:
            rows = tensor[start:stop]
            return rows if self.device is None else rows.to(self.device, non_blocking=True)

        return replace(self._map(cut), rows=stop - start)

    def given_to(self, encoder: Callable[..., Any]) -> Any:
        """What ``encoder`` makes of it."""
        return encoder(*self.arguments, **self.options)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            arguments=tuple(_map(function, argument) for argument in self.arguments),
            options={name: _map(function, option) for name, option in self.options.items()},
        )


def _leaves(caller: str, name: str, tree: object) -> Iterator[tuple[str, Tensor]]:
    """All tensors with the place they stand at; anything else but None is an error."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(caller, f"{name}[{key!r}]", value)
    elif isinstance(tree, (tuple, list)):
        for index, value in enumerate(tree):
            yield from _leaves(caller, f"{name}[{index}]", value)
    elif tree is not None:
        remedy = "tokenise text first" if isinstance(tree, str) else BIND
        raise TypeError(
            f"{caller}: {name} must be a tensor, or a tuple, list or mapping of tensors, got "
            f"{type(tree).__name__} {tree!r:.60}; {remedy}"
        )


def _check_rows(caller: str, leaves: Mapping[str, Tensor]) -> int:
    """The number of items, which all tensors agree on."""
    if not leaves:
        raise InputError(f"{caller}: inputs must hold a tensor, got none; its rows are the items")
    for name, tensor in leaves.items():
        if tensor.dim() == 0:
            raise InputError(f"{caller}: {ROWS_FIRST}, got a 0-d tensor as {name}; {BIND}")
        if tensor.requires_grad:
            raise InputError(
                f"{caller}: inputs are encoded twice and get no gradient, but {name} requires "
                "grad; make what leads to it a part of the encoder, or pass its detach()"
            )
    (first, tensor), *others = leaves.items()
    for name, other in others:
        if len(other) != len(tensor):
            raise InputError(
                f"{caller}: {ROWS_FIRST}, got {first} {shape(tensor)} and {name} {shape(other)}; "
                f"{BIND}"
            )
    return len(tensor)


def _map(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """``tree`` with ``function`` of each of its tensors; a mapping becomes a dict."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: _map(function, value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_map(function, value) for value in tree]
    if isinstance(tree, tuple):
        return tuple(_map(function, value) for value in tree)
    return tree


def _pinned(tensor: Tensor) -> Tensor:
    """``tensor`` in pinned host memory, from which a copy need not wait."""
    if tensor.is_pinned():
        return tensor
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)


def _current_device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, torch.accelerator.current_device_index())
