"""What the demo found out."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .. import __version__
from .options import DemoOptions

PROMISE = 1e-4


@dataclass(frozen=True)
class Side:
    """One of the two ways to compute the loss.

    Args:
        losses: of each step.
        loss_seconds, seconds: of training, in the loss and in all.
        recall: by how many names may be retrieved; empty if nothing was trained.
        peak_bytes: of one loss, by batch size.
    """

    losses: list[float]
    loss_seconds: float
    seconds: float
    recall: dict[int, float]
    peak_bytes: dict[int, int]


@dataclass(frozen=True)
class Sample:
    """An image in the unseen face, and the name nearest to it."""

    character: str
    name: str
    retrieved: str


@dataclass(frozen=True)
class Results:
    """All of it; ``sides`` are "dense" (unless left out) and "contrastile"."""

    options: DemoOptions
    pairs: int
    interrupted: bool
    sides: dict[str, Side]
    samples: list[Sample]

    @property
    def steps(self) -> int:
        return min(len(side.losses) for side in self.sides.values())

    @property
    def differences(self) -> list[float]:
        """How far the two loss curves are apart, by step; empty without the dense one."""
        if "dense" not in self.sides:
            return []
        curves = (self.sides[name].losses for name in ("dense", "contrastile"))
        return [abs(a - b) for a, b in zip(*curves, strict=True)]

    def write(self, file: Path) -> None:
        """Everything as JSON."""
        environment = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "contrastile": __version__,
            "threads": torch.get_num_threads(),
        }
        found = asdict(self) | {
            "environment": environment,
            "largest_difference": max(self.differences, default=None),
        }
        file.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
