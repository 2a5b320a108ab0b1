"""The numbers of all planes in a block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...problem.planes import Map
from ...problem.spec import NONE, Sizes
from ...problem.sweep_spec import MapCode, PlaneCode, SweepSpec
from ..operands import Operand
from ..plan import Block, Plan
from ..products import add_product, make_symmetric
from ..spans import rows_of
from .block_math import BlockMath


class PlaneValues:
    """Memory for one block of each plane, which the next block uses again."""

    def __init__(
        self, spec: SweepSpec, sizes: Sizes, tensors: Sequence[Tensor], plan: Plan, math: BlockMath
    ) -> None:
        self._spec, self._math = spec, math
        self.memories = tuple(
            torch.empty(plan.largest, dtype=sizes.dtype, device=sizes.device) for _ in spec.planes
        )
        self._operands: dict[int, Operand] = {}
        self._vectors: dict[int, Tensor] = {}
        for code in spec.planes:
            for slot in code.vectors:
                if slot != NONE:
                    self._vectors[slot] = tensors[slot].detach().to(sizes.dtype).contiguous()
            if isinstance(code, PlaneCode):
                dtype = operand_dtype(sizes, tensors[code.query], tensors[code.other])
                for slot in (code.query, code.other):
                    self._operands[slot] = Operand(tensors[slot].detach(), dtype, at_once=True)

    def memory(self, plane: int) -> Tensor:
        """Where a plane's numbers are, block after block."""
        return self.memories[plane]

    def of(self, plane: int, block: Block) -> Tensor:
        """The numbers of a plane in the block that was filled in last."""
        rows, cols = block.shape
        return self.memories[plane][: rows * cols].view(rows, cols)

    def vector(self, slot: int, span: slice) -> Tensor | None:
        """A block's part of a vector of rows or columns."""
        return None if slot == NONE else rows_of(self._vectors[slot], span)

    def embeddings(self, slot: int, span: slice) -> Tensor:
        """Rows of an embedding as they are multiplied."""
        return self._operands[slot].rows(span)

    def fill(self, block: Block) -> None:
        """Compute all planes."""
        spec = self._spec
        # Where the sum of a chain of prefixes stands: in the memory of its last.
        last = last_of_chains(spec)
        for number, code in enumerate(spec.planes):
            if isinstance(code, MapCode):
                self._map(code, block, self.of(number, block))
            else:
                self._add_up(number, code, block, self.of(last[number], block))
        if spec.triangle and not block.mirrored:
            for number in range(len(spec.planes)):
                make_symmetric(self.of(number, block))

    def _add_up(self, number: int, code: PlaneCode, block: Block, total: Tensor) -> None:
        """Go on with a sum of products over features, and take the plane from it."""
        features = self._spec.slab(code)
        query = self.embeddings(code.query, block.rows)[:, features]
        key = self.embeddings(code.other, block.cols)[:, features]
        if code.follows == NONE and not query.shape[1]:
            total.zero_()
        else:
            add_product(total, query, key.t(), 0.0 if code.follows == NONE else 1.0, 1.0)
        own = self.of(number, block)
        row, col = (
            self.vector(slot, span)
            for slot, span in zip(code.vectors, (block.rows, block.cols), strict=True)
        )
        if row is not None or col is not None or own.data_ptr() != total.data_ptr():
            self._math.scale(total, row, col, own)

    def _map(self, code: MapCode, block: Block, out: Tensor) -> None:
        planes = [self.of(plane, block) for plane in code.planes]
        row, col = self.vector(code.row, block.rows), self.vector(code.col, block.cols)
        self._math.map(Map(code.map), planes, row, col, out)


def last_of_chains(spec: SweepSpec) -> dict[int, int]:
    """Of each plane of dot products the last that goes on with its accumulation."""
    last: dict[int, int] = {}
    for number, code in reversed(list(enumerate(spec.planes))):
        if isinstance(code, PlaneCode):
            own = last.setdefault(number, number)
            if code.follows != NONE:
                last[code.follows] = own
    return last


def operand_dtype(sizes: Sizes, query: Tensor, key: Tensor) -> torch.dtype:
    """What two embeddings are multiplied in: on a GPU as they are, else in the compute dtype."""
    if sizes.device.type != "cuda" or query.dtype != key.dtype:
        return sizes.dtype
    return sizes.dtype if sizes.dtype == torch.float64 else query.dtype
