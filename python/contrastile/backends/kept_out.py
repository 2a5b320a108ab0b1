"""The pairs of a block that stats leave out, and those of a class, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..engine.plan import Block
from ..problem.spec import Program, Stat
from .places import Place, Places
from .predicates import mask, others


class KeptOut:
    """By index where only single columns are left out, by a mask where more are."""

    def __init__(self, holes: list[Place], mask: Tensor | None) -> None:
        self._holes = holes
        self._mask = mask

    def fill_(self, values: Tensor, number: float) -> None:
        """Put ``number`` in their place."""
        for hole in self._holes:
            values[hole.rows, hole.columns] = number
        if self._mask is not None:
            values.masked_fill_(self._mask, number)


class Selection:
    """What stats leave out of one block; each predicate is evaluated once.

    ``planes``: each plane's numbers of the block, which predicates may read.
    """

    def __init__(
        self, tensors: Sequence[Tensor], block: Block, places: Places, planes: Sequence[Tensor]
    ) -> None:
        self.block = block
        self._tensors = tensors
        self._places = places
        self._planes = planes
        self._masks: dict[Program, Tensor] = {}

    def kept_out(self, stat: Stat) -> KeptOut:
        """What a stat leaves out."""
        rows, cols = self.block.rows, self.block.cols
        holes = [self._places.find(self._tensors[slot], rows, cols) for slot in stat.holes]
        return KeptOut(holes, self._others(stat.program) if stat.program else None)

    def members(self, program: Program) -> Tensor:
        """The pairs of a class."""
        return mask(program, self._tensors, self.block, self._planes)

    def _others(self, program: Program) -> Tensor:
        if program not in self._masks:
            self._masks[program] = others(program, self._tensors, self.block, self._planes)
        return self._masks[program]
