"""Embeddings that are larger than the device: they stay in the host's memory, and pass by.

Queries come strip by strip, and for each strip all keys shard by shard; the gradients of both are
added up in the host's memory. What a device holds is a strip, two shards and their gradient. While
one shard is computed with, the next is copied, if the host's memory is pinned.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.spans import spans
from .shares import Share
from .sources import Shard, Trip

# Bytes of embeddings, in the dtype that is computed in, that a strip or a shard may have.
SHARD = 128 * 2**20


@dataclass(frozen=True)
class HostSource:
    """Embeddings on the CPU that are computed with on ``where``."""

    share: Share
    where: torch.device
    shard_bytes: int = SHARD
    collectives: None = None
    whole: bool = False

    def device(self, query: Tensor) -> torch.device:
        """Not where the rows are."""
        return self.where

    def strips(self, query: Tensor) -> list[slice]:
        """As many rows at a time as a shard has keys."""
        return list(spans(0, query.shape[0], self.height(query))) or [slice(0, 0)]

    def room(self, query: Tensor, dtype: torch.dtype) -> Tensor:
        """In the host's memory."""
        return zeros_like_host(query, dtype)

    def trip(self, own: Tensor, kept: Tensor | None, gradients: torch.dtype | None) -> Trip:
        """Shard after shard, for each strip anew."""
        return HostTrip(self, own, gradients)

    def height(self, embeddings: Tensor) -> int:
        """Rows that a strip or a shard has."""
        row = max(4, embeddings.element_size()) * max(embeddings.shape[1], 1)
        return max(1, self.shard_bytes // row)


class HostTrip:
    """Keys from the host's memory, gradients to it."""

    def __init__(self, source: HostSource, keys: Tensor, gradients: torch.dtype | None) -> None:
        self._source, self._keys = source, keys
        self._gradient = None if gradients is None else zeros_like_host(keys, gradients)
        # Copies that run beside what is computed.
        cuda = source.where.type == "cuda"
        self._stream = torch.cuda.Stream(source.where) if cuda else None

    def shards(self) -> Iterator[Shard]:
        """The next is copied while one is computed with."""
        height, there = self._source.height(self._keys), self._source.where
        columns = list(spans(0, self._keys.shape[0], height)) or [slice(0, 0)]
        following = self._copied(columns[0])
        for place, cols in enumerate(columns):
            keys = self._arrived(following)
            if place + 1 < len(columns):
                following = self._copied(columns[place + 1])
            if self._gradient is None:
                yield Shard(cols, keys, None)
                continue
            home = self._gradient[cols]
            away = home if home.device == there else torch.zeros_like(home, device=there)
            yield Shard(cols, keys, away)
            if away is not home:
                home += away.cpu()

    def kept(self) -> Tensor | None:
        """None: they stay where they are."""
        return None

    def gradient(self) -> Tensor:
        """Of all keys, in the host's memory."""
        assert self._gradient is not None
        return self._gradient

    def _copied(self, cols: slice) -> Tensor:
        """Started only, where it runs beside what is computed."""
        with torch.cuda.stream(self._stream):
            return self._keys[cols].to(self._source.where, non_blocking=True)

    def _arrived(self, keys: Tensor) -> Tensor:
        if self._stream is not None:
            current = torch.cuda.current_stream(self._source.where)
            current.wait_stream(self._stream)
            keys.record_stream(current)
        return keys


def zeros_like_host(embeddings: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for the gradient of what is in the host's memory: of a mapped file in one, too."""
    if embeddings.untyped_storage().filename is None or not embeddings.numel():
        return torch.zeros(embeddings.shape, dtype=dtype)
    with tempfile.NamedTemporaryFile(prefix="contrastile-") as file:
        # The mapping outlives the name.
        room = torch.from_file(file.name, shared=True, size=embeddings.numel(), dtype=dtype)
        return room.view(embeddings.shape)
