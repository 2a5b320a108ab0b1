"""Launches of a kernel that cost the host as little as can be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

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

    def __init__(self, kernel: Any, options: Options | None = None, **constants: Any) -> None:
        """``options`` are the compiler's, ``constants`` arguments of the kernel."""
        self.kernel = kernel
        self.constants = constants
        self._options = options or {}
        self._compiled: Any = None
        self._last: tuple[Any, ...] = ()
        self._places: Places | None = None

    def __call__(self, programs: int, *arguments: Any) -> None:
        """Launch so many programs."""
        places = self._places
        if places is None:
            places = self._places = Places.of(arguments)
        aligned = places.are_aligned(arguments)
        grid = programs, 1, 1
        if aligned and self._compiled is not None:
            self._compiled[grid](*arguments, *self._last)
            return
        compiled = self.kernel[grid](*arguments, **self.constants, **self._options)
        # The interpreter compiles nothing.
        if aligned and compiled is not None:
            names = self.kernel.arg_names[len(arguments) :]
            self._last = tuple([self.constants[name] for name in names])
            self._compiled = compiled


class Places(NamedTuple):
    """Where tensors stand among arguments: as they are, and in tuples within tuples."""

    plain: tuple[int, ...]
    nested: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(arguments: tuple[Any, ...]) -> Places:
        """The same in every call of one kernel."""
        paths = list(_paths(arguments))
        plain = [path[0] for path in paths if len(path) == 1]
        return Places(tuple(plain), tuple([path for path in paths if len(path) > 1]))

    def are_aligned(self, arguments: tuple[Any, ...]) -> bool:
        """Whether every tensor among them starts on 16 bytes."""
        bits = 0
        for place in self.plain:
            bits |= arguments[place].data_ptr()
        for path in self.nested:
            found: Any = arguments
            for place in path:
                found = found[place]
            bits |= found.data_ptr()
        return bits % ALIGNMENT == 0


def _paths(arguments: tuple[Any, ...]) -> Iterator[tuple[int, ...]]:
    for place, argument in enumerate(arguments):
        if isinstance(argument, Tensor):
            yield (place,)
        elif isinstance(argument, tuple):
            for path in _paths(argument):
                yield place, *path
