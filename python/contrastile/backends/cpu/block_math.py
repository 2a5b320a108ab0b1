"""A sweep's work on a block, compiled."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from ... import native
from ...engine.sweep.block_math import Sums, Target
from ...problem.planes import Map


class NativeBlockMath:
    """Numbers as those of :class:`~..torch_block_math.TorchBlockMath`, to rounding: what is made of
    several is made in fp64, products with factors are in the compute dtype.
    """

    def __init__(self, module: ModuleType, dtype: torch.dtype) -> None:
        self._compiled = module.BlockMath(dtype == torch.float64, native.level())

    def scale(self, block: Tensor, row: Tensor | None, col: Tensor | None, out: Tensor) -> None:
        """out = row_i col_j block."""
        self.fold(block, block, row, col, Target(out, add=False), Sums())

    def map(
        self,
        kind: Map,
        planes: Sequence[Tensor],
        row: Tensor | None,
        col: Tensor | None,
        out: Tensor,
    ) -> None:
        """The mapped plane."""
        self._compiled.map(*out.shape, torch.get_num_threads(), int(kind), planes, row, col, out)

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
        """The gradient through the map."""
        self._compiled.map_gradients(
            *grad.shape,
            torch.get_num_threads(),
            int(kind),
            planes,
            row,
            col,
            grad,
            [None if target is None else target.out for target in targets],
            [target is not None and target.add for target in targets],
            *sums,
        )

    def fold(
        self,
        grad: Tensor,
        value: Tensor,
        row: Tensor | None,
        col: Tensor | None,
        target: Target,
        sums: Sums,
    ) -> None:
        """The gradient of dot products, and the sums that the factors' gradients are made of."""
        self._compiled.fold(
            *grad.shape, torch.get_num_threads(), grad, value, row, col, *target, *sums
        )
