"""What makes the second pass of an encoder the first one again: random numbers and autocast."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """The states of torch's default generators, of the CPU and of every accelerator device."""

    cpu: Tensor
    devices: tuple[Tensor, ...]

    @staticmethod
    def now() -> RandomState:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None:
            return RandomState(torch.get_rng_state(), ())
        module = torch.get_device_module(accelerator)
        states = tuple(module.get_rng_state(*place) for place in _places())
        return RandomState(torch.get_rng_state(), states)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.devices:
            module = torch.get_device_module(torch.accelerator.current_accelerator())
            for state, place in zip(self.devices, _places(), strict=True):
                module.set_rng_state(state, *place)


@dataclass(frozen=True)
class Autocast:
    """Autocast on the CPU and on the accelerator, as it was when this was made.

    Args:
        modes: device type, whether it is on, and its dtype.
        cache: whether a weight is cast once for a whole block.
    """

    modes: tuple[tuple[str, bool, torch.dtype], ...]
    cache: bool

    @staticmethod
    def now() -> Autocast:
        modes = tuple(
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in _device_types()
        )
        return Autocast(modes, torch.is_autocast_cache_enabled())

    def again(self, *, cache: bool = True) -> ExitStack:
        """A block in which autocast is as it was.

        Without ``cache`` casts of weights are not remembered: those of a pass without a graph have
        no gradient, and must not be met by a pass that wants one.
        """
        stack = ExitStack()
        for kind, enabled, dtype in self.modes:
            remembers = self.cache and cache
            stack.enter_context(torch.autocast(kind, dtype, enabled, cache_enabled=remembers))
        return stack


def without_autocast() -> ExitStack:
    """A block for a backward pass, whose operations have the dtypes of the forward pass."""
    stack = ExitStack()
    for kind in _device_types():
        stack.enter_context(torch.autocast(kind, enabled=False))
    return stack


def _device_types() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    types = ("cpu",) if accelerator is None else ("cpu", accelerator.type)
    return tuple(kind for kind in types if torch.amp.is_autocast_available(kind))


def _places() -> list[tuple[int, ...]]:
    """How the generator of each device is named; a single device is not, as MPS has no index."""
    count = torch.accelerator.device_count()
    return [()] if count == 1 else [(index,) for index in range(count)]
