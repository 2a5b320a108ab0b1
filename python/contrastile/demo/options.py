"""The options of the demo."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

from .objectives import OBJECTIVES

# The demo has about 5,000 pairs of an image and a name.
LARGEST_BATCH = 4096


@dataclass(frozen=True)
class DemoOptions:
    """What to train, how long, and where to put the results."""

    loss: str = "clip"
    batch: int = 1024
    steps: int = 300
    seed: int = 0
    backend: str = "auto"
    device: str = "cpu"
    dense: bool = True
    out: Path = Path("contrastile-demo")

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Declares the options, with the defaults of this class."""
        parser.add_argument("--loss", choices=OBJECTIVES, help="the loss to train with")
        parser.add_argument("--batch", type=_batch, metavar="N", help="pairs in a batch")
        parser.add_argument("--steps", type=_steps, metavar="N", help="training steps")
        parser.add_argument("--seed", type=int, metavar="N", help="of weights and batches")
        parser.add_argument("--backend", metavar="NAME", help="of Contrastile; see doctor")
        parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...")
        parser.add_argument(
            "--no-dense", dest="dense", action="store_false", help="train with Contrastile only"
        )
        parser.add_argument("--out", type=Path, metavar="FOLDER", help="of the results")
        parser.set_defaults(**{field.name: field.default for field in fields(cls)})

    @classmethod
    def of(cls, namespace: argparse.Namespace) -> DemoOptions:
        """The options among parsed arguments."""
        return cls(**{field.name: getattr(namespace, field.name) for field in fields(cls)})


def _batch(text: str) -> int:
    return _between(text, 2, LARGEST_BATCH)


def _steps(text: str) -> int:
    return _between(text, 1, 10**6)


def _between(text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, got {text}")
    return int(text)
