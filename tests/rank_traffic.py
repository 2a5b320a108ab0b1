"""What ranks exchange in one step of a loss, in which order, and the memory it takes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from cases import Choice
from contrastile import clip_loss, functional
from contrastile.parallel.collectives import Collectives
from contrastile.testing import AllocationSpy
from rank_cases import Layout, detached, parts_of
from torch import Tensor

# A collective by name, with what must be equal on all ranks; of a transfer what is sent and
# received.
Exchange = tuple[Any, ...]


def seen(name: str, method: Callable[..., Any], record: list[Exchange]) -> Callable[..., Any]:
    """``method``, recorded."""

    @wraps(method)
    def recorded(own: Collectives, *given: Any) -> Any:
        record.append((name, *[_seen(name, value) for value in given]))
        return method(own, *given)

    return recorded


def _seen(name: str, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return "" if isinstance(value, str) else tuple(value)
    # Rows of a gather are padded to the largest shard; those of a transfer are told apart below.
    shape = value.shape[1:] if name == "gather" else value.shape
    return value.dtype, tuple(shape)


def recorded(call: Callable[[], Any]) -> list[Exchange]:
    record: list[Exchange] = []
    names = ("gather", "scatter_sum", "sum", "largest", "texts", "pass_on")
    methods = {name: seen(name, getattr(Collectives, name), record) for name in names}
    with patch.multiple(Collectives, **methods):
        call()
    return record


def traffic(loss: str, cases: Sequence[tuple[Choice, Layout, str, bool]]) -> list[list[Exchange]]:
    """Of each case forward and backward pass, with stats where asked for."""

    def step(choice: Choice, layout: Layout, exchange: str, stats: bool) -> None:
        own = detached(parts_of(loss, choice, layout, 0)[dist.get_rank()])
        options = {"exchange": exchange, "return_stats": stats, "grad_scale": "none"}
        found = getattr(functional, loss)(**own, group=dist.group.WORLD, **options)
        (found[0] if stats else found).sum().backward()

    return [recorded(lambda case=case: step(*case)) for case in cases]  # type: ignore[misc]


def rooms_of_shards(rows: int, size: int) -> int:
    """In how much memory the shards of others come in the forward pass of a ring: places."""
    x = torch.randn(rows, size)
    places = set()
    whole = Collectives.pass_on

    def watched(own: Collectives, send: Tensor, room: Tensor) -> Any:
        places.add(room.untyped_storage().data_ptr())
        return whole(own, send, room)

    with patch.object(Collectives, "pass_on", watched):
        clip_loss(x, x, temperature=0.1, exchange="ring", group=dist.group.WORLD)
    return len(places)


def peak(exchange: str, rows: int, size: int, workspace: int) -> int:
    """Bytes that forward and backward of clip_loss take beside the embeddings."""
    x, y = (torch.randn(rows, size, requires_grad=True) for _ in range(2))

    def step() -> None:
        call = {"exchange": exchange, "workspace": workspace, "temperature": 0.1}
        clip_loss(x, y, group=dist.group.WORLD, **call).backward()

    step()
    x.grad = y.grad = None
    gc.collect()
    with AllocationSpy() as spy:
        step()
    return spy.peak_bytes
