"""Launch configurations: one frozen record, and the heuristic that picks it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import torch

from .device import Device


class Purpose(Enum):
    """Which kernel is launched. The general forms need more registers and hardly ever run; the
    weights of a diagonal block are written twice.
    """

    REDUCE = "reduce"
    REDUCE_GENERAL = "reduce, general form"
    REDUCE_TERMS = "reduce pair sums"
    REDUCE_AND_KEEP = "reduce, keep dot products"
    WEIGH = "weigh"
    WEIGH_TERMS = "weigh pair sums"
    WEIGH_GENERAL = "weigh, general form"
    WEIGH_DIAGONAL = "weigh diagonal"
    WEIGH_DIAGONAL_GENERAL = "weigh diagonal, general form"
    WEIGH_KEPT = "weigh kept dot products"


@dataclass(frozen=True)
class Launch:
    """Shape and resources of a kernel; no choice of them may change a result beyond rounding."""

    rows: int
    cols: int
    depth: int
    warps: int
    stages: int
    descriptors: bool
    per_processor: int = 1
    # Into how many parts, side by side, the weights of a tile are made and stored.
    parts: int = 1
    group: int = 8
    flatten: bool = False
    specialize: bool = False

    def constants(self) -> dict[str, int | bool]:
        """The kernel's compile-time arguments and the compiler's options."""
        return {
            "ROWS": self.rows,
            "COLS": self.cols,
            "DEPTH": self.depth,
            "GROUP": self.group,
            "DESCRIPTORS": self.descriptors,
            "FLATTEN": self.flatten,
            "SPECIALIZE": self.specialize,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }

    def programs(self, row_count: int, col_count: int, device: Device) -> int:
        """A persistent grid: no more programs than run at once, no more than tiles."""
        tiles = -(-row_count // self.rows) * -(-col_count // self.cols)
        return max(min(tiles, device.processors * self.per_processor), 1)


INTERPRETED = Launch(16, 32, 16, 4, 1, descriptors=True)
# fp32 products outside the tensor cores: limited by registers, not by loads.
EXACT = Launch(32, 64, 16, 4, 2, descriptors=False, per_processor=2)
DOUBLE = Launch(32, 32, 16, 4, 2, descriptors=False, per_processor=2)
HALF = Launch(128, 128, 32, 8, 3, descriptors=False)
SHORT = Launch(128, 64, 32, 8, 3, descriptors=False)
SMALL = Launch(64, 64, 32, 4, 3, descriptors=False)
WIDE = Launch(128, 256, 64, 8, 3, descriptors=True)
HALVES = replace(WIDE, parts=2)
SQUARE = Launch(128, 128, 64, 8, 3, descriptors=True)
LOW = Launch(64, 128, 64, 8, 3, descriptors=True)
NARROW = Launch(128, 64, 64, 8, 3, descriptors=True)
# Limited by the memory's bandwidth: many programs, each with loads under way.
KEPT = Launch(32, 64, 16, 4, 1, descriptors=False, per_processor=8)
# The tensor cores of sm_90 and sm_100 take no fewer.
FEWEST_ROWS = 64
# Registers and shared memory decide: where a tile is smaller than its neighbours, the larger one
# spilled with Triton 3.6 or 3.7 (benches/gates.py). Of sm_90's weights on the diagonal, 128 x 256
# would not fit in shared memory twice, as they are and transposed.
HALF_BY_ARCH = {
    "sm_120": {
        Purpose.REDUCE_AND_KEEP: SMALL,
        Purpose.REDUCE_GENERAL: SHORT,
        Purpose.WEIGH: SHORT,
        Purpose.WEIGH_TERMS: SMALL,
        Purpose.WEIGH_DIAGONAL: SHORT,
        Purpose.WEIGH_GENERAL: SHORT,
        Purpose.WEIGH_DIAGONAL_GENERAL: SHORT,
    },
    "sm_80": {
        Purpose.REDUCE_TERMS: SHORT,
        Purpose.WEIGH_DIAGONAL: SHORT,
        Purpose.WEIGH_GENERAL: SHORT,
        Purpose.WEIGH_DIAGONAL_GENERAL: SHORT,
    },
    "sm_90": {
        Purpose.REDUCE: WIDE,
        Purpose.REDUCE_GENERAL: SQUARE,
        Purpose.REDUCE_TERMS: WIDE,
        Purpose.REDUCE_AND_KEEP: SQUARE,
        Purpose.WEIGH: HALVES,
        Purpose.WEIGH_TERMS: SQUARE,
        Purpose.WEIGH_GENERAL: SQUARE,
        Purpose.WEIGH_DIAGONAL: SQUARE,
        Purpose.WEIGH_DIAGONAL_GENERAL: SQUARE,
    },
    "sm_100": {
        Purpose.REDUCE: SQUARE,
        Purpose.REDUCE_GENERAL: NARROW,
        Purpose.REDUCE_TERMS: LOW,
        Purpose.REDUCE_AND_KEEP: LOW,
        Purpose.WEIGH: SQUARE,
        Purpose.WEIGH_TERMS: LOW,
        Purpose.WEIGH_GENERAL: NARROW,
        # At 128 rows Triton 3.7.1 fails to compile the transposed store.
        Purpose.WEIGH_DIAGONAL: LOW,
        Purpose.WEIGH_DIAGONAL_GENERAL: LOW,
    },
}


def pick(device: Device, dtype: torch.dtype, purpose: Purpose, reductions: int = 1) -> Launch:
    """The configuration for operands of ``dtype``.

    Several reductions of one tile take registers each: its sides are half as long then.
    """
    if purpose is Purpose.WEIGH_KEPT:
        return _within(KEPT, pick(device, dtype, Purpose.REDUCE_AND_KEEP, reductions))
    if device.arch == "interpreter":
        return INTERPRETED
    if dtype == torch.float64:
        return DOUBLE
    launch = HALF_BY_ARCH.get(device.arch, {}).get(purpose, HALF)
    if dtype == torch.float32:
        launch = EXACT
    if reductions == 1:
        return launch
    rows = min(launch.rows, max(launch.rows // 2, FEWEST_ROWS))
    return replace(launch, rows=rows, cols=launch.cols // 2, parts=1)


def _within(launch: Launch, outer: Launch) -> Launch:
    """No side longer than the other's longest: of a diagonal, the tiles that were kept suffice."""
    longest = max(outer.rows, outer.cols)
    return replace(launch, rows=min(launch.rows, longest), cols=min(launch.cols, longest))
