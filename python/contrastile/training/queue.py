"""Embeddings of past batches, first in, first out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from ..parallel import ALONE, Peers, together
from ..problem import InputError
from ..problem.checks import FLOATS, check_embedding, check_integers, shape
from ..problem.storage import check_storage

P = ParamSpec("P")
T = TypeVar("T")

NAME = "MemoryQueue"
SWITCH = "ids=True of the constructor makes a queue that has ids"


class MemoryQueue(nn.Module):
    r"""The last ``capacity`` embeddings that were put in, as further columns of a loss (MoCo, XBM).

    Rows are written over in a ring, oldest first. All state is in buffers of fixed shapes, so that
    it follows ``.to()`` and stands in a checkpoint. ``keys()`` are copies: a loss of them may go
    backward after the next ``enqueue``. None of them has a gradient.

    What a loss makes of them:

    * ``info_nce(q, k, memory=(queue.keys(),))``: negatives of every query; with ids, but for those
      of the query's id: ``memory=(queue.keys(), queue.ids())``;
    * ``clip_loss(x, y, memory=(xs.keys(), ys.keys()))``, with a queue for each side;
    * ``supcon_loss(z, labels, memory=(queue.keys(), queue.ids()))``: positives too.

    With several ranks either all hold the same queue (``enqueue(..., group=group)`` gathers the new
    rows, and ``memory=`` with ``group=`` exchanges nothing of it), or each its own part of one
    (``enqueue`` without a group), which ``info_nce(negatives=queue.keys(), group=group)`` gathers
    in every step: less memory for each rank, more to send.

    Nothing waits for a device. While a queue fills up, how far is known on the host alone: under
    ``torch.compile`` ``keys`` and ``enqueue`` then stand between two graphs, of a full queue they
    are part of one. A module that DDP wraps should not contain the queue, or have
    ``broadcast_buffers=False``: DDP would send it in every step.

    Args:
        capacity: how many rows it holds.
        size: of the embeddings.
        dtype: they are stored in: fp32, fp64, bf16 or fp16.
        ids: whether each row has an id (a label).
        device: where the buffers are made.

    Raises:
        InputError: arguments that do not fit (a ValueError).

    Source: He et al., Momentum Contrast for Unsupervised Visual Representation Learning, 2020;
    Wang et al., Cross-Batch Memory for Embedding Learning, 2020.

    >>> import torch
    >>> from contrastile import MemoryQueue, info_nce
    >>> queue = MemoryQueue(6, 4)
    >>> x = torch.eye(4)
    >>> info_nce(x, x, memory=(queue.keys(),), temperature=0.5)
    tensor(0.3408)
    >>> queue.enqueue(x)
    >>> info_nce(x, -x, memory=(queue.keys(),), temperature=0.5)
    tensor(4.6045)
    >>> queue.enqueue(torch.full((4, 4), 0.5))
    >>> queue.keys()[:3]
    tensor([[0.5000, 0.5000, 0.5000, 0.5000],
            [0.5000, 0.5000, 0.5000, 0.5000],
            [0.0000, 0.0000, 1.0000, 0.0000]])
    """

    rows: Tensor
    row_ids: Tensor | None
    # Rows put in since it was empty: the next one goes to written % capacity.
    written: Tensor

    def __init__(
        self,
        capacity: int,
        size: int,
        *,
        dtype: torch.dtype = torch.float32,
        ids: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        _check_count("capacity", capacity)
        _check_count("size", size)
        if dtype not in FLOATS:
            raise InputError(
                f"{NAME}: dtype must be float32, float64, float16 or bfloat16, got {dtype}"
            )
        codes = torch.zeros(capacity, dtype=torch.int64, device=device) if ids else None
        self.register_buffer("rows", torch.zeros(capacity, size, dtype=dtype, device=device))
        self.register_buffer("row_ids", codes)
        self.register_buffer("written", torch.zeros((), dtype=torch.int64, device=device))
        # What the host knows of ``written`` without asking a device for it. A compiled graph
        # depends on the second alone, which changes once.
        self._count, self._full = 0, False

    @property
    def capacity(self) -> int:
        """How many rows it holds at most."""
        return self.rows.shape[0]

    @property
    def count(self) -> int:
        """How many rows it holds now."""
        return self._count

    def keys(self) -> Tensor:
        """The rows [count, size], a copy, in the order of their places (not of their age)."""
        return self._filled(self.rows)

    def ids(self) -> Tensor:
        """The ids [count] of these rows.

        Raises:
            InputError: it has none.
        """
        if self.row_ids is None:
            raise InputError(f"{NAME}: it has no ids; {SWITCH}")
        return self._filled(self.row_ids)

    def enqueue(self, embeddings: Tensor, ids: Tensor | None = None, *, group: Any = None) -> None:
        """Put in rows, detached, in place of the oldest; of more than its capacity the last.

        Args:
            embeddings: [N, size] of any dtype a loss takes.
            ids: [N] integers, of a queue that has ids.
            group: a process group, or one dimension of a DeviceMesh: the rows of all its ranks are
                put in, rank by rank, on each of them. Ranks may give different numbers of rows.

        Raises:
            InputError: arguments that do not fit; with a group on all ranks (a ValueError).
        """

        def gathered(peers: Peers) -> tuple[Tensor, Tensor | None]:
            rows, codes = self._checked(embeddings, ids)
            columns = peers.columns("embeddings", embeddings)
            return columns.everywhere(rows), None if codes is None else columns.everywhere(codes)

        given = {"embeddings": embeddings, "ids": ids, "capacity": self.capacity}
        held = {"dtype": str(self.rows.dtype), "rows held": self.count}
        found = (
            gathered(ALONE) if group is None else together(NAME, group, {**given, **held}, gathered)
        )
        self._write(*found)

    def resize(self, capacity: int) -> None:
        """Another capacity; the newest rows stay."""
        _check_count("capacity", capacity)
        count = min(self.count, capacity)
        for name in ("rows", "row_ids"):
            buffer = getattr(self, name)
            if buffer is not None:
                setattr(self, name, _newest(buffer, self.written, count, capacity))
        self.written.fill_(count)
        self._count, self._full = count, count == capacity

    def extra_repr(self) -> str:
        """Its form, and how full it is."""
        dtype = str(self.rows.dtype).removeprefix("torch.")
        ids = ", ids" if self.row_ids is not None else ""
        return f"{self.count} of {self.capacity} rows, size {self.rows.shape[1]}, {dtype}{ids}"

    def _checked(self, embeddings: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As they are stored."""
        check_storage(NAME, {"the queue": self.rows, "embeddings": embeddings, "ids": ids})
        check_embedding(NAME, "embeddings", embeddings)
        size = self.rows.shape[1]
        if embeddings.shape[1] != size:
            raise InputError(
                f"{NAME}: it holds embeddings of size {size}, got embeddings {shape(embeddings)}"
            )
        if (ids is None) != (self.row_ids is None):
            got = "none" if ids is None else "some"
            raise InputError(f"{NAME}: ids go with a queue that has ids, got {got}; {SWITCH}")
        codes = None if ids is None else check_integers(NAME, "ids", ids, len(embeddings))
        return embeddings.detach().to(self.rows.dtype), codes

    def _write(self, rows: Tensor, codes: Tensor | None) -> None:
        count = min(len(rows), self.capacity)
        places = torch.arange(count, device=rows.device).add(self.written) % self.capacity
        self.rows.index_copy_(0, places, rows[len(rows) - count :])
        if self.row_ids is not None and codes is not None:
            self.row_ids.index_copy_(0, places, codes[len(codes) - count :])
        self.written.add_(count)
        if not self._full:
            _untraced(self._count_up)(count)

    def _count_up(self, count: int) -> None:
        self._count = min(self._count + count, self.capacity)
        self._full = self._count == self.capacity

    def _filled(self, buffer: Tensor) -> Tensor:
        return buffer.clone() if self._full else _untraced(self._first)(buffer)

    def _first(self, buffer: Tensor) -> Tensor:
        return buffer[: self._count].clone()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **more: Any
    ) -> None:
        """Of a queue of another capacity the newest rows, as many as fit."""
        rows, written = (state_dict.get(prefix + name) for name in ("rows", "written"))
        if rows is not None and written is not None and len(rows) != self.capacity:
            count = min(int(written), len(rows), self.capacity)
            fitted = {
                prefix + name: _newest(state_dict[prefix + name], written, count, self.capacity)
                for name in ("rows", "row_ids")
                if prefix + name in state_dict
            }
            fitted[prefix + "written"] = torch.full_like(written, count)
            state_dict = {**state_dict, **fitted}
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)
        self._count, self._full = 0, False
        self._count_up(int(self.written))


def _newest(buffer: Tensor, written: Tensor, count: int, capacity: int) -> Tensor:
    """The ``count`` newest rows, oldest first, at the start of a new buffer."""
    places = torch.arange(count, device=buffer.device).add(written - count) % len(buffer)
    room = buffer.new_zeros((capacity, *buffer.shape[1:]))
    room[:count] = buffer[places]
    return room


def _untraced(method: Callable[P, T]) -> Callable[P, T]:
    """``method`` as no graph sees it."""
    return torch.compiler.disable(method) if torch.compiler.is_dynamo_compiling() else method


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{NAME}: {name} must be a positive integer, got {value!r}")
