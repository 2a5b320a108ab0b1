"""How many rows of G a GPU's products are given at a time."""

from __future__ import annotations

import torch

from ..engine.blocks import Tile
from ..problem import Problem

# Output tile of the GEMMs that take a strip, as cuBLAS picks it for large problems.
GEMM_TILE = 128 * 256
# Partial sums of a tile beside its weights: 4 bytes for each 128 rows and each 128 columns.
PARTIALS = 8 / 128


def wave(processors: int, size: int) -> int:
    """Rows of G whose product with the keys has one output tile for each multiprocessor."""
    return max(processors * GEMM_TILE // max(size, 1) // 128 * 128, 128)


def strip_tile(problem: Problem, dtype: torch.dtype, processors: int) -> Tile:
    """All columns, and as many rows as the workspace has room for.

    Rounded down to whole waves of the product G K, where a last wave would leave most of the
    device idle, or else to whole tiles.
    """
    itemsize = dtype.itemsize + PARTIALS
    room = int(problem.workspace / (itemsize * max(problem.m, 1)))
    whole = wave(processors, problem.d)
    step = whole if room >= whole else 128
    rows = room // step * step if room >= step else room
    return Tile(max(rows, 1), max(problem.m, 1), itemsize)
