"""Seconds of a step of a loss, in closed form: passes, exchange, and what of it is hidden.

The formulas are those of equal ranks; simulate.py replays the schedule itself.
"""

from __future__ import annotations

from typing import NamedTuple

from .presets import Cluster, Gpu
from .schedule import Start, Together, nbytes, schedule_of
from .shapes import Shape

# Passes over the gradients of a shard's keys and of the queries in memory beside the GEMMs': set to
# zero, multiplied by their factor, added, and what a ring has summed before.
KEY_PASSES = {"gather": 7, "ring": 10}
QUERY_PASSES = 6


class Cost(NamedTuple):
    """Seconds.

    Attributes:
        forward: passes of the forward direction; the host's time where that is longer.
        backward: likewise, with the GEMMs of both gradients.
        exchange: of keys and their gradients, as far as no pass hides it.
        vectors: merging the columns' sums, and the gradients that come back for them.
        hidden: of keys and gradients, beside a pass.
        host: how much of the passes is a GPU that waits for its host.
    """

    forward: float
    backward: float
    exchange: float
    vectors: float
    hidden: float
    host: float

    @property
    def total(self) -> float:
        """The step."""
        return self.forward + self.backward + self.exchange + self.vectors


class Seconds(NamedTuple):
    """Of one pass: on the device, and until the next can start, which is no less than the host."""

    device: float
    whole: float


def pass_seconds(
    gpu: Gpu, shape: Shape, exchange: str, part: str, rows: int, columns: int
) -> Seconds:
    """One direction over so many rows and columns."""
    kernels, pairs = gpu.kernels[shape.loss], rows * columns
    once = kernels.at_once if shape.world == 1 else None
    if part == "forward":
        device = 0.0 if once else kernels.reduce.seconds(pairs, shape.size)
    else:
        device = (once or kernels.weigh).seconds(pairs, shape.size)
        device += 4 * pairs * shape.size / gpu.products
        if shape.world > 1:
            moved = KEY_PASSES[exchange] * columns + QUERY_PASSES * rows
            device += moved * shape.size * shape.wide / gpu.bandwidth
    return Seconds(device, max(device, gpu.host))


def collective_seconds(cluster: Cluster, operation: Together, shape: Shape) -> float:
    """A collective from when all ranks have come to it."""
    given = nbytes(operation, shape, 0)
    if operation.method == "gather":
        return cluster.collected(given * shape.world)
    if operation.method == "scatter_sum":
        return cluster.collected(given)
    return cluster.summed(given)


def cost_of(gpu: Gpu, cluster: Cluster, shape: Shape, exchange: str) -> Cost:
    """The step of equal ranks."""
    rows, world = shape.rows[0], shape.world
    ring = exchange == "ring"
    columns, passes = (rows, world) if ring else (shape.total, 1)
    forward, backward = (
        pass_seconds(gpu, shape, exchange, part, rows, columns) for part in ("forward", "backward")
    )
    vectors, together = 0.0, 0.0
    for operation in schedule_of(exchange, shape):
        if isinstance(operation, Together):
            seconds = collective_seconds(cluster, operation, shape)
            if operation.what in ("keys", "gradients"):
                together += seconds
            else:
                vectors += seconds
    exchanged, exposed = together, together
    if ring and world > 1:
        exchanged, exposed = _ring(cluster, shape, forward.whole, backward.whole)
    waiting = passes * (forward.whole - forward.device + backward.whole - backward.device)
    return Cost(
        passes * forward.whole,
        passes * backward.whole,
        exposed,
        vectors,
        exchanged - exposed,
        waiting,
    )


def _ring(cluster: Cluster, shape: Shape, forward: float, backward: float) -> tuple[float, float]:
    """Seconds that keys and gradients travel, and those of them in which nothing is computed.

    Backward, keys follow gradients over the same link; the last gradients go home alone.
    """
    link, steps = cluster.slowest, shape.world - 1
    keys = shape.keys(0) / link.bandwidth + link.latency
    gradients = shape.gradients(0) / link.bandwidth + link.latency
    travelling = steps * (2 * keys + gradients) + gradients
    exposed = steps * max(keys - forward, 0.0)
    exposed += _beside(backward, keys, gradients, steps) + gradients
    return travelling, exposed


def _beside(backward: float, keys: float, gradients: float, steps: int) -> float:
    """Seconds in which the backward pass waits, but for its last gradients.

    The first keys travel beside the first pass alone; each later transfer of keys waits for the
    gradients that were started just before, and both are beside one pass; beside the last pass are
    gradients alone.
    """
    first, last = max(keys - backward, 0.0), max(gradients - backward, 0.0)
    return first + (steps - 1) * max(keys + gradients - backward, 0.0) + last


def bytes_sent(shape: Shape, exchange: str) -> dict[str, int]:
    """Bytes that leave a rank in a step, by what they are: exact for the ring's transfers, and of
    collectives what any algorithm must send that uses all links evenly.
    """
    sent: dict[str, int] = {}
    world = shape.world
    for operation in schedule_of(exchange, shape):
        if not isinstance(operation, (Start, Together)):
            continue
        given, what = nbytes(operation, shape, 0), operation.what
        share = 1.0
        if isinstance(operation, Together):
            parts = {"gather": world - 1.0, "scatter_sum": 1 - 1 / world}
            share = parts.get(operation.method, 2 - 2 / world)
        count = round(given * share)
        sent[what] = sent.get(what, 0) + count
    return sent
