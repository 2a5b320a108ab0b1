"""The pairs of a block that a reduction leaves out, in plain torch."""

from __future__ import annotations

from torch import Tensor

from ..engine.blocks import Block
from ..engine.positives import Places
from ..problem.pairs import Not, Pairs, split_holes


class KeptOut:
    """By index where only single columns are left out, by a mask where more are."""

    def __init__(self, pairs: Pairs | None, block: Block, places: Places) -> None:
        holes, rest = split_holes(pairs)
        self._holes = [places.find(columns, block.rows, block.cols) for columns in holes]
        self._mask: Tensor | None = None
        if rest is not None:
            others = rest.pairs if isinstance(rest, Not) else ~rest
            self._mask = others.block(block.rows, block.cols)

    def fill_(self, values: Tensor, number: float) -> None:
        """Put ``number`` in their place."""
        for hole in self._holes:
            values[hole.rows, hole.columns] = number
        if self._mask is not None:
            values.masked_fill_(self._mask, number)
