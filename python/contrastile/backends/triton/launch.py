"""Launch configurations: one frozen record, and the heuristic that picks it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch

from .device import Device


class Purpose(Enum):
    """Which of the two questions a kernel answers."""

    REDUCE = "reduce"
    WEIGH = "weigh"


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
EXACT = Launch(64, 64, 32, 4, 2, descriptors=False, per_processor=2)
DOUBLE = Launch(32, 32, 16, 4, 2, descriptors=False, per_processor=2)
HALF = Launch(128, 128, 32, 8, 3, descriptors=False, per_processor=1)
HALF_BY_ARCH = {
    ("sm_90", Purpose.REDUCE): Launch(128, 256, 64, 8, 3, descriptors=True),
    ("sm_90", Purpose.WEIGH): Launch(128, 256, 64, 8, 3, descriptors=True),
    ("sm_100", Purpose.REDUCE): Launch(128, 256, 64, 8, 3, descriptors=True),
    ("sm_100", Purpose.WEIGH): Launch(128, 128, 64, 8, 3, descriptors=True),
}


def pick(device: Device, dtype: torch.dtype, purpose: Purpose) -> Launch:
    """The configuration for operands of ``dtype``."""
    if device.arch == "interpreter":
        return INTERPRETED
    if dtype == torch.float64:
        return DOUBLE
    if dtype == torch.float32:
        return EXACT
    return HALF_BY_ARCH.get((device.arch, purpose), HALF)
