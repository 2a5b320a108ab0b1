"""Strips of G on a GPU: their dtype, how many rows, and how rows lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.job import Job
from ...engine.plan import Tile
from ...problem.channels import Phi
from ...problem.spec import Sizes, Spec

# Output tile of the GEMMs that take a strip, as cuBLAS picks it for large problems.
GEMM_TILE = 128 * 256
# Partial sums of a tile beside its weights: 4 bytes for each 128 rows and each 128 columns.
PARTIALS = 8 / 128
# Elements that the rows of a strip are padded to: whole 16-byte vectors in every dtype.
PADDING = 16


def operand_dtype(spec: Spec, sizes: Sizes) -> torch.dtype:
    """What embeddings and G are multiplied in: the embeddings' half precision, if they have it."""
    half = sizes.embedding_dtype in (torch.float16, torch.bfloat16)
    return sizes.embedding_dtype if half and not _unbounded(spec) else sizes.dtype


def _unbounded(spec: Spec) -> bool:
    """Whether G may be any multiple of the upstream gradient, too much for half precision."""
    return any(stat.phi == Phi.SQUARE for stat in spec.stats)


def padded(width: int) -> int:
    """Elements from a row of a strip to the next."""
    return -(-width // PADDING) * PADDING


class StripMemory:
    """Memory that one strip after the other is written to: the job's, whose blocks are contiguous,
    or of its own, with rows that are padded.
    """

    def __init__(self, job: Job) -> None:
        self.padded = job.scratch is None
        if job.scratch is not None:
            self.memory = job.scratch
            return
        largest = max(rows * padded(cols) for rows, cols in job.plan.shapes())
        self.memory = torch.empty(largest, dtype=job.operand_dtype, device=job.sizes.device)

    def strip(self, height: int, width: int) -> Tensor:
        """Of a block's shape; valid until the next."""
        stride = padded(width) if self.padded else width
        return self.memory.as_strided((height, width), (stride, 1))


def wave(processors: int, size: int) -> int:
    """Rows of G whose product with the keys has one output tile for each multiprocessor."""
    return max(processors * GEMM_TILE // max(size, 1) // 128 * 128, 128)


def strip_rows(workspace: int, m: int, size: int, itemsize: int, processors: int) -> int:
    """As many rows of all ``m`` columns as the workspace has room for.

    Rounded down to whole waves of the product G K, where a last wave would leave most of the
    device idle, or else to whole tiles.
    """
    room = int(workspace / ((itemsize + PARTIALS) * max(m, 1)))
    whole = wave(processors, size)
    step = whole if room >= whole else 128
    return max(room // step * step if room >= step else room, 1)


def strip_tile(spec: Spec, sizes: Sizes, dtype: torch.dtype, processors: int) -> Tile:
    """All columns, and that many rows."""
    rows = strip_rows(spec.workspace, sizes.m, sizes.d, dtype.itemsize, processors)
    return Tile(rows, max(sizes.m, 1), dtype.itemsize + PARTIALS)
