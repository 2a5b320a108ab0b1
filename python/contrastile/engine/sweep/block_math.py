"""What a sweep does with a block, number by number: the part of it that each backend has its own
code for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from ...problem.planes import Map


class Target(NamedTuple):
    """Where a gradient of a block goes; ``add``: to what is there already."""

    out: Tensor
    add: bool


class Sums(NamedTuple):
    """fp64 vectors of a block's rows and columns, to be added to; None for one nobody wants."""

    rows: Tensor | None = None
    cols: Tensor | None = None


class BlockMath(Protocol):
    """Blocks are contiguous [rows, cols]; ``row`` and ``col`` the block's own part of a vector.

    All are in the compute dtype, but ``grad``, which may be in half precision on a GPU.
    """

    def scale(self, block: Tensor, row: Tensor | None, col: Tensor | None, out: Tensor) -> None:
        """out = row_i col_j block; ``out`` may be the block. None is 1."""

    def map(
        self,
        kind: Map,
        planes: Sequence[Tensor],
        row: Tensor | None,
        col: Tensor | None,
        out: Tensor,
    ) -> None:
        """The mapped plane; see :class:`~contrastile.problem.planes.Mapped`."""

    def map_gradients(
        self,
        kind: Map,
        planes: Sequence[Tensor],
        row: Tensor | None,
        col: Tensor | None,
        grad: Tensor,
        targets: Sequence[Target | None],
        sums: Sums,
    ) -> None:
        """``grad`` times the partial derivatives: by each plane to its target, by row and column
        numbers to ``sums``. 0 where ``grad`` is, as at pairs that a predicate leaves out, even
        where the map is not finite: a power of theirs may be beyond all numbers.
        """

    def fold(
        self,
        grad: Tensor,
        value: Tensor,
        row: Tensor | None,
        col: Tensor | None,
        target: Target,
        sums: Sums,
    ) -> None:
        """row_i col_j grad to the target; the sums of grad times value, without these factors."""
