"""The schedule replayed: every operation of every rank, over links that carry one thing at a time.

All ranks run one list of operations, so an operation is replayed for all of them together: their
clocks are one vector. A transfer starts once its sender and its receiver have come to it and the
link is free; a collective once all ranks have; a pass when its rank's clock says so.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .cost import collective_seconds, pass_seconds
from .presets import Cluster, Gpu
from .schedule import Compute, Operation, Start, Wait, schedule_of
from .shapes import Shape


class Event(NamedTuple):
    """Seconds since the step began."""

    what: str
    start: float
    end: float


class Replay(NamedTuple):
    """What a step came to.

    Attributes:
        seconds: until the last rank is done.
        computing: of the rank that computes longest.
        waiting: of the rank that waits longest, collectives included.
        links: the share of the step in which the busiest link of the ring carries something.
        events: of rank 0.
    """

    seconds: float
    computing: float
    waiting: float
    links: float
    events: list[Event]


class _Clocks:
    """All ranks as they stand."""

    def __init__(self, gpu: Gpu, cluster: Cluster, shape: Shape, exchange: str) -> None:
        self._gpu, self._cluster, self._shape, self._exchange = gpu, cluster, shape, exchange
        world = shape.world
        hops = [cluster.hop(rank) for rank in range(world)]
        self._bandwidth = _vector([hop.bandwidth for hop in hops])
        self._latency = _vector([hop.latency for hop in hops])
        self._ranks = torch.arange(world)
        self._numbers = _vector([rows * shape.size for rows in shape.rows])
        self.now, self.computing = torch.zeros_like(self._numbers), torch.zeros_like(self._numbers)
        self._free, self.carrying = torch.zeros_like(self.now), torch.zeros_like(self.now)
        self._arrives: dict[str, Tensor] = {}
        self._passes: dict[tuple[str, int, int], float] = {}
        self.events: list[Event] = []

    def take(self, operation: Operation) -> None:
        """One operation, on all ranks."""
        before = float(self.now[0])
        if isinstance(operation, Compute):
            passing = self._pass_of(operation)
            self.computing += passing
            self.now = self.now + passing
            name = f"{operation.part} pass"
        elif isinstance(operation, Start):
            self._start(operation)
            return
        elif isinstance(operation, Wait):
            self.now = torch.maximum(self.now, self._arrives[operation.what])
            name = f"wait for {operation.what}"
        else:
            seconds = collective_seconds(self._cluster, operation, self._shape)
            self.now = torch.full_like(self.now, float(self.now.max()) + seconds)
            name = f"{operation.method} of {operation.what}"
        self.events.append(Event(name, before, float(self.now[0])))

    def _start(self, operation: Start) -> None:
        """From each rank to the next: both must have come to it."""
        shape = self._shape
        item = shape.itemsize if operation.what == "keys" else shape.wide
        owner = (self._ranks - operation.step) % shape.world
        begin = torch.maximum(torch.maximum(self.now, self.now.roll(-1)), self._free)
        busy = self._numbers[owner] * item / self._bandwidth
        end = begin + busy + self._latency
        self._free = end
        self.carrying += busy
        self._arrives[operation.what] = torch.maximum(end, end.roll(1))
        name = f"{operation.what} of rank {int(owner[0])} to the next"
        self.events.append(Event(name, float(begin[0]), float(end[0])))

    def _pass_of(self, operation: Compute) -> Tensor:
        """Seconds on each rank."""
        shape, step = self._shape, operation.step
        rows = shape.rows
        if len(set(rows)) == 1:
            columns = shape.total if step is None else rows[0]
            return torch.full_like(self.now, self._seconds(operation.part, rows[0], columns))
        if step is None:
            owned = [shape.total] * shape.world
        else:
            owned = [rows[(rank - step) % shape.world] for rank in range(shape.world)]
        both = zip(rows, owned, strict=True)
        return _vector([self._seconds(operation.part, own, other) for own, other in both])

    def _seconds(self, part: str, rows: int, columns: int) -> float:
        key = part, rows, columns
        if key not in self._passes:
            found = pass_seconds(self._gpu, self._shape, self._exchange, part, rows, columns)
            self._passes[key] = found.whole
        return self._passes[key]


def replay(gpu: Gpu, cluster: Cluster, shape: Shape, exchange: str) -> Replay:
    """A step of a loss, from the agreement to the gradients of the embeddings."""
    clocks = _Clocks(gpu, cluster, shape, exchange)
    for operation in schedule_of(exchange, shape):
        clocks.take(operation)
    seconds = float(clocks.now.max())
    return Replay(
        seconds,
        float(clocks.computing.max()),
        float((seconds - clocks.computing).max()),
        float(clocks.carrying.max()) / seconds if seconds else 0.0,
        clocks.events,
    )


def _vector(values: list[float] | list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
