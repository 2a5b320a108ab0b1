"""Strips of G on a GPU: their dtype, how many rows, and how rows lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.blocks import Tile
from ..engine.run import Run
from ..problem import Phi, Problem, Term

# Output tile of the GEMMs that take a strip, as cuBLAS picks it for large problems.
GEMM_TILE = 128 * 256
# Partial sums of a tile beside its weights: 4 bytes for each 128 rows and each 128 columns.
PARTIALS = 8 / 128
# Elements that the rows of a strip are padded to: whole 16-byte vectors in every dtype.
PADDING = 16


def operand_dtype(problem: Problem) -> torch.dtype:
    """What embeddings and G are multiplied in: the embeddings' half precision, if they have it."""
    half = problem.embedding_dtype in (torch.float16, torch.bfloat16)
    return problem.embedding_dtype if half and not _unbounded(problem) else problem.dtype


def _unbounded(problem: Problem) -> bool:
    """Whether G may be any multiple of the upstream gradient, too much for half precision."""
    return any(isinstance(r, Term) and r.phi is Phi.SQUARE for r in problem.reductions)


def padded(width: int) -> int:
    """Elements from a row of a strip to the next."""
    return -(-width // PADDING) * PADDING


class StripMemory:
    """Memory that one strip after the other is written to."""

    def __init__(self, run: Run) -> None:
        shapes = [block.shape for strip in run.plan for block in strip]
        largest = max(rows * padded(cols) for rows, cols in shapes)
        self.memory = torch.empty(largest, dtype=run.operand_dtype, device=run.problem.device)

    def strip(self, height: int, width: int) -> Tensor:
        """Of a block's shape; valid until the next."""
        stride = padded(width)
        return self.memory[: height * stride].view(height, stride)[:, :width]


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


def strip_tile(problem: Problem, dtype: torch.dtype, processors: int) -> Tile:
    """All columns, and that many rows."""
    rows = strip_rows(problem.workspace, problem.m, problem.d, dtype.itemsize, processors)
    return Tile(rows, max(problem.m, 1), dtype.itemsize + PARTIALS)
