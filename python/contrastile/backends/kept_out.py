"""The pairs of a block that reductions leave out, in plain torch."""

from __future__ import annotations

from torch import Tensor

from ..engine.blocks import Block
from ..engine.positives import Place, Places
from ..problem.pairs import Not, Pairs, split_holes


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
    """What reductions leave out of one block; each predicate is evaluated once."""

    def __init__(self, block: Block, places: Places) -> None:
        self._block = block
        self._places = places
        # By identity, beside what has this identity as long as it is here.
        self._found: dict[int, tuple[Pairs | None, KeptOut]] = {}
        self._masks: dict[int, tuple[Pairs, Tensor]] = {}

    def kept_out(self, pairs: Pairs | None) -> KeptOut:
        """What a reduction over these pairs leaves out."""
        if id(pairs) not in self._found:
            rows, cols = self._block.rows, self._block.cols
            holes, rest = split_holes(pairs)
            places = [self._places.find(columns, rows, cols) for columns in holes]
            others = None if rest is None else self._others(rest)
            self._found[id(pairs)] = pairs, KeptOut(places, others)
        return self._found[id(pairs)][1]

    def _others(self, pairs: Pairs) -> Tensor:
        """The pairs that are not in ``pairs``."""
        return self._mask(pairs.pairs) if isinstance(pairs, Not) else ~self._mask(pairs)

    def _mask(self, pairs: Pairs) -> Tensor:
        if id(pairs) not in self._masks:
            self._masks[id(pairs)] = pairs, pairs.block(self._block.rows, self._block.cols)
        return self._masks[id(pairs)][1]
