"""Tools to test code that computes losses: what it allocates, what values it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .problem.values import checked_values


class AllocationSpy(TorchDispatchMode):
    """Measures what torch operators allocate in a ``with`` block, forward and backward.

    Every tensor an operator returns in new memory counts from its creation until nothing holds
    that memory any more; views and in-place results add nothing. It needs no GPU and is exact to
    the byte and the same on every run, so "nothing of size N x M exists" can be asserted.

    Not seen: memory that existed before the block, scratch inside one operator, and code that
    bypasses the dispatcher (``torch.compile``, which refuses to run under it).

    Attributes:
        live_bytes: held now.
        peak_bytes: most ever held at once.
        largest_bytes: the largest single allocation.

    Example:
        >>> import torch
        >>> from contrastile.testing import AllocationSpy
        >>> x = torch.ones(100, 8)
        >>> with AllocationSpy() as spy:
        ...     total = (x @ x.T).sum()
        >>> spy.largest_bytes, spy.peak_bytes, spy.live_bytes
        (40000, 40004, 4)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self.largest_bytes = 0
        self._held: dict[int, tuple[ref[torch.UntypedStorage], int]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # A storage keeps its Python object, and so its id, for as long as its memory lives.
        given = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **kwargs)
        for storage in _storages(result):
            if id(storage) in self._held or id(storage) not in given:
                self._hold(storage)
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._release(key)  # an `out=` tensor may have grown
        self._held[key] = (ref(storage, partial(self._freed, key)), size)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.largest_bytes = max(self.largest_bytes, size)

    def _freed(self, key: int, _: ref[torch.UntypedStorage]) -> None:
        self._release(key)

    def _release(self, key: int) -> None:
        _, size = self._held.pop(key, (None, 0))
        self.live_bytes -= size


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided:
            yield leaf.untyped_storage()


__all__ = ["AllocationSpy", "checked_values"]
