"""One encoder and its batch, from the pass without a graph to the pass that makes gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ..problem import InputError
from ..problem.checks import shape
from .batch import Batch
from .replay import Autocast, RandomState, without_autocast
from .wrappers import modules_behind

Select = Callable[[Any], Any] | str | int


class Tower:
    """The embeddings of a batch, sub-batch by sub-batch.

    Args:
        caller: the function that the user called, for messages.
        encoder: any callable.
        batch: what it encodes.
        sub_batch: how many items at once.
        output: which part of the encoder's output the embeddings are: a key, an index, a function.
    """

    def __init__(
        self,
        caller: str,
        encoder: Callable[..., Any],
        batch: Batch,
        sub_batch: int,
        output: Select | None,
    ) -> None:
        self.encoder = encoder
        self.modules = modules_behind(encoder)
        self.leaves: tuple[Tensor, ...] = ()
        self.one_tensor = True
        self._caller, self._batch = caller, batch
        self._select = output if callable(output) or output is None else itemgetter(output)
        # A batch of no items is one sub-batch of none: all ranks of a group run their encoders.
        starts = range(0, max(batch.rows, 1), sub_batch)
        self._bounds = [(start, min(start + sub_batch, batch.rows)) for start in starts]
        self._first: list[tuple[Tensor, ...]] = []
        self._states: list[RandomState] = []
        self._autocast = Autocast.now()

    @property
    def pieces(self) -> int:
        """How many sub-batches."""
        return len(self._bounds)

    def encode(self, index: int) -> None:
        """The first pass of a sub-batch, without a graph."""
        self._states.append(RandomState.now())
        with self._autocast.again(cache=False), torch.no_grad():
            self._first.append(self._encoded(index))

    def make_leaves(self) -> None:
        """All embeddings, as leaves of the graph that the loss will make."""
        parts, self._first = self._first, []
        wanted = torch.is_grad_enabled()
        self.leaves = tuple(
            torch.cat(each).requires_grad_(wanted) for each in zip(*parts, strict=True)
        )

    @property
    def cached(self) -> bool:
        """Whether the loss left a gradient of these embeddings."""
        return any(leaf.grad is not None for leaf in self.leaves)

    def add_gradients(self, index: int) -> bool:
        """The second pass of one sub-batch; False where nothing before its output is trained."""
        self._states[index].restore()
        with self._autocast.again(), torch.enable_grad():
            outputs = self._encoded(index)
        rows = slice(*self._bounds[index])
        trained, gradients = [], []
        for output, leaf in zip(outputs, self.leaves, strict=True):
            if leaf.grad is not None and output.requires_grad:
                trained.append(output)
                gradients.append(leaf.grad[rows])
        if trained:
            with without_autocast():
                torch.autograd.backward(trained, gradients)
        return bool(trained)

    def _encoded(self, index: int) -> tuple[Tensor, ...]:
        bounds = self._bounds[index]
        output = self._batch.piece(*bounds).given_to(self.encoder)
        if self._select is not None:
            output = self._select(output)
        self.one_tensor = isinstance(output, Tensor)
        embeddings = output if isinstance(output, (tuple, list)) else (output,)
        for each in embeddings:
            self._check(each, bounds[1] - bounds[0])
        return tuple(embeddings)

    def _check(self, embeddings: object, rows: int) -> None:
        rule = f"{self._caller}: an encoder must return a tensor with one row an item, or several"
        if not isinstance(embeddings, Tensor):
            got = type(embeddings).__name__
            if isinstance(embeddings, Mapping):
                got += f" of {', '.join(map(str, embeddings))}"
            raise TypeError(
                f"{rule}, got {got}; name the embeddings by output=, a key, an index or a function "
                "of what the encoder returns"
            )
        if embeddings.dim() == 0 or len(embeddings) != rows:
            raise InputError(
                f"{rule}, got {shape(embeddings)} for {rows} items; choose what has rows by "
                "output=, and let the loss use the others (a scale, say) as parameters"
            )
        if not embeddings.is_floating_point():
            raise InputError(f"{rule}, floating point, got {embeddings.dtype}; choose by output=")
