"""The pairs of a block that stats leave out, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..engine.plan import Block
from ..problem.spec import Program, Stat
from .places import Place, Places
from .predicates import others


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
    """What stats leave out of one block; each predicate is evaluated once."""

    def __init__(self, tensors: Sequence[Tensor], block: Block, places: Places) -> None:
        self._tensors = tensors
        self._block = block
        self._places = places
        self._masks: dict[Program, Tensor] = {}

    def kept_out(self, stat: Stat) -> KeptOut:
        """What a stat leaves out."""
        rows, cols = self._block.rows, self._block.cols
        holes = [self._places.find(self._tensors[slot], rows, cols) for slot in stat.holes]
        return KeptOut(holes, self._others(stat.program) if stat.program else None)

    def _others(self, program: Program) -> Tensor:
        if program not in self._masks:
            self._masks[program] = others(program, self._tensors, self._block)
        return self._masks[program]
