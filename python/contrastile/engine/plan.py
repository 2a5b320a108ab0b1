"""The order in which blocks of S are visited, and which of them are kept for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..problem.spec import Sizes, Spec
from .spans import spans


@dataclass(frozen=True)
class Keeping:
    """Where dot products are worth being kept for the backward pass.

    From an embedding size on, as their product then costs more than to write and read its result;
    below it where all of them, at most ``cached`` scores, stay in a cache.
    """

    from_size: int
    cached: int = 0


# Measured on a CPU at N = 8192 in 1024 x 2048 tiles: kept scores made a step 1.1 to 1.3 times
# slower at D = 64, as fast at 128, 1.05 to 1.15 times faster at 256, 1.05 to 1.2 times at 512.
CPU_KEEPING = Keeping(192, 2**20)


@dataclass(frozen=True)
class Tile:
    """The block shape a backend works best with, and the bytes it spends on a pair."""

    rows: int
    cols: int
    itemsize: float | None = None


@dataclass(frozen=True, eq=False)
class Block:
    """A block of S. ``mirrored``: it also stands for its transpose (off-diagonal, self mode).

    ``kept_at`` is where its dot products start in the memory that outlives the forward pass; None
    where they are computed again.
    """

    rows: slice
    cols: slice
    mirrored: bool
    kept_at: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the block."""
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start

    def share(self, triangle: bool) -> float:
        """How much of the block counts in a sum over all pairs: on a diagonal each stands twice."""
        return 0.5 if triangle and not self.mirrored else 1.0


Strip = tuple[Block, ...]


class Plan(NamedTuple):
    """Strips of blocks, top to bottom, and the scores that they keep."""

    strips: tuple[Strip, ...]
    kept: int = 0

    @property
    def single(self) -> bool:
        """Whether one block is all there is."""
        return len(self.strips) == 1 and len(self.strips[0]) == 1

    @property
    def largest(self) -> int:
        """Scores of the largest block."""
        return max((rows * cols for rows, cols in self.shapes()), default=0)

    def blocks(self) -> Iterator[Block]:
        """All blocks, strip by strip."""
        for strip in self.strips:
            yield from strip

    def shapes(self) -> Iterator[tuple[int, int]]:
        """Rows and columns of each block."""
        for block in self.blocks():
            yield block.shape


def plan_of(spec: Spec, sizes: Sizes, tile: Tile) -> Plan:
    """Strips of blocks within the workspace; in the self mode each starts on the diagonal."""
    if sizes.m == 0:
        return Plan(())
    tile = _within_workspace(spec, sizes, tile)
    if spec.triangle:
        # The diagonal blocks of a triangle are square.
        tile = Tile(min(tile.rows, tile.cols), tile.cols)
    return Plan(tuple(_strip(spec, sizes, tile, rows) for rows in spans(0, sizes.n, tile.rows)))


def strips_of(sizes: Sizes, height: int, width: int) -> Plan:
    """Strips of a rectangle, of which the scores of one at a time are kept."""
    strips = []
    for rows in spans(0, sizes.n, height):
        place, strip = 0, []
        for cols in spans(0, sizes.m, width):
            strip.append(Block(rows, cols, False, place))
            place += (rows.stop - rows.start) * (cols.stop - cols.start)
        strips.append(tuple(strip))
    return Plan(tuple(strips), height * sizes.m)


def scores_in(spec: Spec, dtype: torch.dtype) -> int:
    """Scores that fit the workspace."""
    return spec.workspace // dtype.itemsize


def all_fit(spec: Spec, sizes: Sizes, plan: Plan) -> bool:
    """Whether all blocks and one more fit the workspace."""
    total = sum(rows * cols for rows, cols in plan.shapes())
    return total + plan.largest <= scores_in(spec, sizes.dtype)


def keeping_scores(
    spec: Spec, sizes: Sizes, plan: Plan, keeping: Keeping, most: int | None = None
) -> Plan:
    """The plan with places for the dots of as many blocks as fit the workspace beside one more.

    Each saves the backward pass one product of four (of two in the self mode). ``most``: the memory
    that there is for them was allotted before, by a trace, which knows sizes but no blocks.
    """
    counts = [rows * cols for rows, cols in plan.shapes()]
    if most is None:
        most = scores_in(spec, sizes.dtype) - plan.largest
        if sizes.d < keeping.from_size:
            most = min(most, keeping.cached)
            if sum(counts) > most:
                return plan
    total, strips = 0, []
    full = False
    for strip in plan.strips:
        placed = []
        for block in strip:
            rows, cols = block.shape
            full = full or total + rows * cols > most
            if full:
                placed.append(block)
            else:
                placed.append(Block(block.rows, block.cols, block.mirrored, total))
                total += rows * cols
        strips.append(tuple(placed))
    return Plan(tuple(strips), total)


def _within_workspace(spec: Spec, sizes: Sizes, tile: Tile) -> Tile:
    """The tile, halved along its longer side until a block of it fits the workspace."""
    rows, cols = min(tile.rows, max(sizes.n, 1)), min(tile.cols, max(sizes.m, 1))
    itemsize = tile.itemsize or sizes.dtype.itemsize
    while rows * cols * itemsize > spec.workspace and rows * cols > 1:
        if rows > cols:
            rows = -(-rows // 2)
        else:
            cols = -(-cols // 2)
    return Tile(rows, cols)


def _strip(spec: Spec, sizes: Sizes, tile: Tile, rows: slice) -> Strip:
    if not spec.triangle:
        return tuple(Block(rows, cols, False) for cols in spans(0, sizes.m, tile.cols))
    beyond = spans(rows.stop, sizes.m, tile.cols)
    return (Block(rows, rows, False), *(Block(rows, cols, True) for cols in beyond))
