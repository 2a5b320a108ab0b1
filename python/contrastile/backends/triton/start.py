"""Launches of a kernel that cost the host as little as can be."""

from __future__ import annotations

from typing import Any

from torch import Tensor

# In bytes: kernels that the binder chose for aligned pointers take no others.
ALIGNMENT = 16
Options = dict[str, int]


class Start:
    """A kernel with its compile-time arguments; a call takes the grid and what is left.

    For each launch Triton's binder asks all arguments for their types and alignment, which takes 10
    to 40 us. In every step they are the same, so where all pointers are aligned the kernel that the
    binder chose before is launched again. Whoever makes a Start sees to it that all else that the
    binder looks at is the same in all of its calls: dtypes, and integers that are specialised.
    """

    def __init__(
        self, kernel: Any, options: dict[str, Any] | None = None, **constants: Any
    ) -> None:
        self.kernel = kernel
        self.constants = constants
        # How to compile it: no arguments of the kernel.
        self._options = options or {}
        self._compiled: Any = None
        self._last: tuple[Any, ...] = ()

    def __call__(self, programs: int, *arguments: Any) -> None:
        """Launch so many programs."""
        grid = programs, 1, 1
        aligned = are_aligned(arguments)
        if aligned and self._compiled is not None:
            self._compiled[grid](*arguments, *self._last)
            return
        compiled = self.kernel[grid](*arguments, **self.constants, **self._options)
        # The interpreter compiles nothing.
        if aligned and compiled is not None:
            names = self.kernel.arg_names[len(arguments) :]
            self._last = tuple([self.constants[name] for name in names])
            self._compiled = compiled


def are_aligned(arguments: tuple[Any, ...]) -> bool:
    """Whether every tensor among them, and in tuples of them, starts on 16 bytes."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            if argument.data_ptr() % ALIGNMENT:
                return False
        elif isinstance(argument, tuple) and not are_aligned(argument):
            return False
    return True
