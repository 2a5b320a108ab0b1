"""Which batch fits, and how: sub-batch, workspace, exchange."""

from __future__ import annotations

from typing import NamedTuple

from ..problem import InputError
from ..problem.problem import DEFAULT_WORKSPACE, SHARE
from .cost import Cost, cost_of
from .memory import Memory, Step, memory_of, step_of
from .presets import Cluster, Gpu
from .schedule import EXCHANGES
from .shapes import Shape

# Rows of a rank are a multiple of it where the batch is not given; no sub-batch is smaller.
ROWS = 128
LEAST_SUB_BATCH = 32
LEAST_WORKSPACE = 64 * 2**20


class Wanted(NamedTuple):
    """What is known before; None is to be found."""

    loss: str
    size: int
    dtype: str
    model_bytes: int
    fixed_bytes: int
    batch: int | None = None
    sub_batch: int | None = None
    workspace: int | None = None
    exchange: str | None = None


class Plan(NamedTuple):
    """One way to train with a batch."""

    shape: Shape
    exchange: str
    sub_batch: int
    workspace: int
    memory: Memory
    step: Step
    cost: Cost
    fits: bool


def plan(wanted: Wanted, gpu: Gpu, cluster: Cluster) -> list[Plan]:
    """The best way first, one for each exchange; of the largest batch that fits, if none is given.

    Ways that fit come before others, faster ones before slower ones.

    Raises:
        InputError: the batch does not divide by the GPUs, or not even the smallest fits.
    """
    if cluster.gpus < 1:
        raise InputError(f"plan: gpus must be at least 1, got {cluster.gpus}")
    exchanges = (wanted.exchange,) if wanted.exchange else EXCHANGES
    if cluster.gpus == 1:
        exchanges = exchanges[:1]
    batch = wanted.batch
    if batch is None:
        batch = max(_largest(wanted, gpu, cluster, exchange) for exchange in exchanges)
        if not batch:
            raise InputError(
                f"plan: not even {ROWS} rows a GPU fit {gpu.memory} bytes beside "
                f"fixed-bytes {wanted.fixed_bytes}"
            )
    if batch < cluster.gpus:
        raise InputError(f"plan: batch must be at least {cluster.gpus}, got {batch}")
    if batch % cluster.gpus:
        raise InputError(f"plan: batch {batch} does not divide by {cluster.gpus} GPUs")
    ways = [_way(wanted, gpu, cluster, batch, exchange) for exchange in exchanges]
    return sorted(ways, key=lambda way: (not way.fits, way.cost.total))


def _largest(wanted: Wanted, gpu: Gpu, cluster: Cluster, exchange: str) -> int:
    """The largest batch that fits: memory only grows with the rows of a rank."""

    def fits(blocks: int) -> bool:
        return _way(wanted, gpu, cluster, blocks * ROWS * cluster.gpus, exchange, False).fits

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * ROWS * cluster.gpus


def _way(
    wanted: Wanted, gpu: Gpu, cluster: Cluster, batch: int, exchange: str, timed: bool = True
) -> Plan:
    """The batch by one exchange, with the largest workspace and sub-batch that fit."""
    shape = Shape.even(batch, cluster.gpus, wanted.size, wanted.dtype, wanted.loss)
    rows = shape.rows[0]
    for workspace in _workspaces(wanted, gpu):
        memory = memory_of(shape, exchange, workspace)
        for sub_batch in _sub_batches(wanted, rows):
            step = step_of(memory, rows, sub_batch, wanted.model_bytes, wanted.fixed_bytes)
            if step.peak <= gpu.memory:
                break
        if step.peak <= gpu.memory:
            break
    cost = cost_of(gpu, cluster, shape, exchange) if timed else Cost(0, 0, 0, 0, 0, 0)
    fits = step.peak <= gpu.memory
    return Plan(shape, exchange, sub_batch, workspace, memory, step, cost, fits)


def _workspaces(wanted: Wanted, gpu: Gpu) -> list[int]:
    """What a loss takes by itself, then halves of it."""
    if wanted.workspace is not None:
        return [wanted.workspace]
    found = [max(DEFAULT_WORKSPACE, gpu.memory // SHARE)]
    while found[-1] // 2 >= LEAST_WORKSPACE:
        found.append(found[-1] // 2)
    return found


def _sub_batches(wanted: Wanted, rows: int) -> list[int]:
    """All rows at once, then powers of two."""
    if wanted.sub_batch is not None:
        return [min(wanted.sub_batch, rows)]
    powers = [2**k for k in range(rows.bit_length() - 1, -1, -1)]
    return [rows, *(power for power in powers if LEAST_SUB_BATCH <= power < rows)]
