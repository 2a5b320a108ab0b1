"""A job as Triton's kernels see it."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ...engine.plan import Block
from ...triton_kernels.place import PlaneBlock
from ...triton_kernels.reductions import Split, Vectors
from ..gpu.scene import Scene
from .encode import OfPlane, split_of, vectors_of, vectors_read
from .operands import matrix
from .program import Program, Tiles, program_of


@dataclass(frozen=True, eq=False)
class Bound:
    """Its program, the vectors of its stats, and the tensors that their predicates read."""

    scene: Scene
    program: Program
    vectors: tuple[Vectors, ...]
    # Of what predicates read the vectors; of planes nothing.
    data: tuple[Tensor, ...]
    # What the first launch of a pass fills in of the vectors.
    split: Split

    @staticmethod
    def of(scene: Scene) -> Bound:
        """Ready to be launched."""
        job, program = scene.job, program_of(scene)
        data = vectors_read(job, program.encoded.sources)
        vectors = vectors_of(job)
        return Bound(scene, program, vectors, data, split_of(job, vectors))

    def data_of(self, block: Block) -> tuple[Tensor | PlaneBlock, ...]:
        """What predicates read, in the order in which they number it."""
        sources = self.program.encoded.sources
        if len(sources) == len(self.data):
            return self.data
        planes, vectors = self.scene.job.planes_of(block), iter(self.data)
        return tuple(
            [
                PlaneBlock(planes[source.number], planes[source.number].stride(0))
                if isinstance(source, OfPlane)
                else next(vectors)
                for source in sources
            ]
        )

    def start(self, tiles: Tiles, block: Block, *arguments: Any) -> None:
        """Launch a kernel over the tiles of a block."""
        launch = tiles.launch
        query, key = self.scene.query, self.scene.key
        everything = (
            matrix(query, launch, launch.rows, launch.depth),
            matrix(key, launch, launch.cols, launch.depth),
            *query.stride(),
            *key.stride(),
            block.rows.start,
            block.rows.stop,
            block.cols.start,
            block.cols.stop,
            *arguments,
        )
        if launch.specialize:
            contextvars.copy_context().run(self._with_scratch, tiles, everything)
        else:
            tiles.start(tiles.programs, *everything)

    def _with_scratch(self, tiles: Tiles, arguments: tuple[Any, ...]) -> None:
        """Descriptors made on the device need memory, from an allocator that Triton keeps in a
        context variable: the caller's context is left as it is.
        """
        device = self.scene.sizes.device
        triton.set_allocator(
            lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device)
        )
        tiles.start(tiles.programs, *arguments)


def first(tensor: Tensor | None, absent: Tensor) -> Tensor:
    """``tensor`` if there is one: a kernel takes one for every argument, read or not."""
    return absent if tensor is None else tensor


def kept_dots(bound: Bound, block: Block, absent: Tensor) -> tuple[Tensor, int]:
    """The memory of a block's dot products and its row stride; ``absent`` stands in for none."""
    kept = bound.scene.job.kept_dots(block)
    return (absent, 0) if kept is None else (kept, kept.stride(0))
