"""What a rank does in one step of a loss over ranks, in order: as contrastile.parallel does it.

All ranks run the same operations; what they send differs by their places in the ring. The tests
hold each transfer, its order and its bytes against those that are really asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from .shapes import Shape

EXCHANGES = ("gather", "ring")
Part = Literal["forward", "backward"]
Moving = Literal["keys", "gradients"]
# A rank tells the others that it failed, a fingerprint of its arguments, how many rows of each.
AGREEMENT = 14 * 8
# The loss of all rows and their number, fp64.
QUOTIENT = 2 * 8


class Compute(NamedTuple):
    """A pass over this rank's rows and the columns of the shard of a step, or of all ranks."""

    part: Part
    step: int | None


class Start(NamedTuple):
    """Begin to pass a shard, or its gradients, on to the next rank."""

    what: Moving
    step: int


class Wait(NamedTuple):
    """Until what was passed on has left, and what comes has arrived."""

    what: Moving


class Together(NamedTuple):
    """A collective: which method of Collectives, and of what."""

    method: Literal["gather", "scatter_sum", "sum", "largest"]
    what: str


Operation: TypeAlias = Compute | Start | Wait | Together


def schedule_of(exchange: str, shape: Shape) -> list[Operation]:
    """All operations of a step, forward and backward.

    Raises:
        ValueError: an unknown exchange.
    """
    if exchange not in EXCHANGES:
        raise ValueError(f"exchange must be one of {', '.join(EXCHANGES)}, got {exchange!r}")
    ring, world, kind = exchange == "ring", shape.world, shape.kind
    return [
        Together("gather", "agreement"),
        *([Together("gather", "biases")] if kind.biased else []),
        *(_ring_forward(world) if ring else _gather_forward()),
        *([Together("largest", "columns"), Together("sum", "columns")] if kind.column_sums else []),
        Together("sum", "quotient"),
        *([Together("gather", "column gradients")] if kind.column_sums else []),
        *(_ring_backward(world) if ring else _gather_backward()),
        *([Together("scatter_sum", "bias gradients")] if kind.biased else []),
    ]


def nbytes(operation: Start | Together, shape: Shape, rank: int) -> int:
    """Bytes that a rank hands to the operation."""
    if isinstance(operation, Start):
        owner = (rank - operation.step) % shape.world
        return shape.keys(owner) if operation.what == "keys" else shape.gradients(owner)
    return {
        "agreement": AGREEMENT,
        "keys": shape.keys(rank),
        "biases": 8 * shape.rows[rank],
        "columns": 8 * shape.kind.column_sums * shape.total,
        "quotient": QUOTIENT,
        "column gradients": shape.wide * shape.kind.column_sums * shape.rows[rank],
        "bias gradients": 8 * shape.total,
        "gradients": sum(map(shape.gradients, range(shape.world))),
    }[operation.what]


def _gather_forward() -> Iterator[Operation]:
    yield Together("gather", "keys")
    yield Compute("forward", None)


def _gather_backward() -> Iterator[Operation]:
    yield Compute("backward", None)
    yield Together("scatter_sum", "gradients")


def _ring_forward(world: int) -> Iterator[Operation]:
    for step in range(world):
        if step < world - 1:
            yield Start("keys", step)
        yield Compute("forward", step)
        if step < world - 1:
            yield Wait("keys")


def _ring_backward(world: int) -> Iterator[Operation]:
    """Gradients one step behind their keys; the last ones go home."""
    for step in range(world):
        if step < world - 1:
            yield Start("keys", step)
        yield Compute("backward", step)
        if step:
            yield Wait("gradients")
        if world > 1:
            yield Start("gradients", step)
        if step < world - 1:
            yield Wait("keys")
    if world > 1:
        yield Wait("gradients")
