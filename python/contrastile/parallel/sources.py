"""Where the keys of all ranks come from, shard by shard, and where their gradients go.

Gathered: all keys at once, one transfer, memory for all of them. Ring: each shard goes once round
all ranks; the next one travels while this one is computed with, and a rank holds at most two beside
its own. In the backward pass a shard's gradient follows it one step behind, and ends where the
shard belongs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .collectives import Collectives
from .shares import Share


class Shard(NamedTuple):
    """Keys of the columns ``cols``, and where their gradients are to be added."""

    cols: slice
    keys: Tensor
    gradient: Tensor | None


class Trip(Protocol):
    """The keys of all columns."""

    def shards(self) -> Iterator[Shard]:
        """Shard by shard, for each strip of rows; one is valid until the next."""

    def kept(self) -> Tensor | None:
        """Keys of all ranks, if they are there after the trip and shall be used again."""

    def gradient(self) -> Tensor:
        """The gradient of this rank's own keys, once all shards were visited."""


class Source(Protocol):
    """Where keys come from, and rows."""

    @property
    def share(self) -> Share:
        """This process's columns among all."""

    @property
    def collectives(self) -> Collectives | None:
        """Where columns have sums of other ranks besides."""

    @property
    def whole(self) -> bool:
        """Whether all rows meet all keys at once: then dot products may be kept."""

    def device(self, query: Tensor) -> torch.device:
        """Where is computed."""

    def strips(self, query: Tensor) -> list[slice]:
        """Rows that are computed with at a time."""

    def room(self, query: Tensor, dtype: torch.dtype) -> Tensor:
        """Zeros, to add up the gradient of the queries in."""

    def trip(self, own: Tensor, kept: Tensor | None, gradients: torch.dtype | None) -> Trip:
        """Looks at all keys; ``gradients``: the dtype that gradients are added up in."""


@dataclass(frozen=True)
class PeerSource:
    """The ranks of a group."""

    collectives: Collectives
    share: Share
    ring: bool

    @property
    def whole(self) -> bool:
        """Not in a ring, where nothing of a shard stays."""
        return not self.ring or self.collectives.size == 1

    def device(self, query: Tensor) -> torch.device:
        """Where the rows are."""
        return query.device

    def strips(self, query: Tensor) -> list[slice]:
        """All of this rank's."""
        return [slice(0, query.shape[0])]

    def room(self, query: Tensor, dtype: torch.dtype) -> Tensor:
        """Beside them."""
        return torch.zeros(query.shape, dtype=dtype, device=query.device)

    def trip(self, own: Tensor, kept: Tensor | None, gradients: torch.dtype | None) -> Trip:
        """By one of two ways."""
        kind = RingTrip if self.ring else GatherTrip
        return kind(self, own, kept, gradients)


class GatherTrip:
    """All keys as one shard."""

    def __init__(
        self, source: PeerSource, own: Tensor, kept: Tensor | None, gradients: torch.dtype | None
    ) -> None:
        self._source = source
        self._keys = source.collectives.gather(own, source.share.sizes) if kept is None else kept
        self._gradient = None
        if gradients is not None:
            self._gradient = torch.zeros(self._keys.shape, dtype=gradients, device=own.device)

    def shards(self) -> Iterator[Shard]:
        """The one there is."""
        # A view: keys that are the queries themselves would be taken for the self mode.
        keys = self._keys.view(self._keys.shape)
        yield Shard(slice(0, self._source.share.total), keys, self._gradient)

    def kept(self) -> Tensor | None:
        """All keys: their memory was taken anyway."""
        return self._keys

    def gradient(self) -> Tensor:
        """Summed over ranks."""
        assert self._gradient is not None
        return self._source.collectives.scatter_sum(self._gradient, self._source.share.sizes)


class RingTrip:
    """Shard after shard, this rank's own first."""

    def __init__(
        self, source: PeerSource, own: Tensor, kept: Tensor | None, gradients: torch.dtype | None
    ) -> None:
        assert kept is None, "a ring keeps nothing"
        self._collectives, self._share = source.collectives, source.share
        self._own, self._dtype = own.contiguous(), gradients
        self._gradient: Tensor | None = None

    def shards(self) -> Iterator[Shard]:
        """At step t the shard of the rank t before this one."""
        ring, world = self._collectives, self._collectives.size
        keys = self._own.view(self._own.shape)
        # Two rooms in turn: whoever computes with a shard may hold it until it gets the next.
        height = max(self._share.sizes)
        rooms = [keys.new_empty((height, *keys.shape[1:])) for _ in range(min(2, world - 1))]
        arriving: Tensor | None = None
        gradient: Tensor | None = None
        summed: list[torch.distributed.Work] = []
        for step in range(world):
            owner, following = ((ring.rank - step - k) % world for k in (0, 1))
            moving, room = [], keys
            if step < world - 1:
                room = rooms[step % 2][: self._share.sizes[following]]
                moving = ring.pass_on(keys, room)
            departed, gradient = gradient, None
            if self._dtype is not None:
                gradient = torch.zeros(keys.shape, dtype=self._dtype, device=keys.device)
            yield Shard(self._share.of(owner), keys, gradient)
            if gradient is not None:
                _wait(summed)
                # Memory that is being sent is held until it is waited for.
                del departed
                if arriving is not None:
                    gradient += arriving
                arriving, summed = self._pass_gradient(gradient, following)
            _wait(moving)
            keys = room
        _wait(summed)
        self._gradient = arriving

    def kept(self) -> Tensor | None:
        """None."""
        return None

    def gradient(self) -> Tensor:
        """What came home."""
        assert self._gradient is not None
        return self._gradient

    def _pass_gradient(
        self, gradient: Tensor, following: int
    ) -> tuple[Tensor, list[torch.distributed.Work]]:
        """Send a shard's gradient after it; receive that of the shard that is next here."""
        if self._collectives.size == 1:
            return gradient, []
        room = gradient.new_empty((self._share.sizes[following], *gradient.shape[1:]))
        return room, self._collectives.pass_on(gradient, room)


def _wait(works: list[torch.distributed.Work]) -> None:
    for work in works:
        work.wait()
