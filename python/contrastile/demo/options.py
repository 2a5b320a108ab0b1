"""The options of the demo."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from .objectives import OBJECTIVES

# The demo has about 5,000 pairs of an image and a name.
LARGEST_BATCH = 4096


@dataclass(frozen=True)
class DemoOptions:
    """What to train, how long, and where to put the results."""

    loss: str = "clip"
    batch: int = 1024
    steps: int = 400
    seed: int = 0
    backend: str = "auto"
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    dense: bool = True
    out: Path = Path("contrastile-demo")

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Declares the options, with the defaults of this class."""
        parser.set_defaults(**{field.name: field.default for field in fields(cls)})
        add = parser.add_argument
        add("--loss", choices=OBJECTIVES, help="the loss to train with (%(default)s)")
        add("--batch", type=_batch, metavar="N", help="pairs in a batch (%(default)s)")
        add("--steps", type=_steps, metavar="N", help="training steps (%(default)s)")
        add("--seed", type=_seed, metavar="N", help="of weights and batches (%(default)s)")
        add("--backend", metavar="NAME", help="as contrastile doctor lists them (%(default)s)")
        add("--device", type=_device, metavar="NAME", help="to train on (%(default)s)")
        add("--no-dense", dest="dense", action="store_false", help="train with Contrastile only")
        add("--out", type=Path, metavar="FOLDER", help="for the results (%(default)s)")

    @classmethod
    def of(cls, namespace: argparse.Namespace) -> DemoOptions:
        """The options among parsed arguments."""
        return cls(**{field.name: getattr(namespace, field.name) for field in fields(cls)})


def _batch(text: str) -> int:
    return _between(text, 2, LARGEST_BATCH)


def _steps(text: str) -> int:
    return _between(text, 1, 10**6)


def _seed(text: str) -> int:
    return _between(text, 0, 2**63 - 1)


def _between(text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, got {text}")
    return int(text)


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"must be the name of a device, got {text}") from error
    accelerator = torch.accelerator.current_accelerator()
    here = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    if device.type not in here:
        raise argparse.ArgumentTypeError(f"torch finds only {' and '.join(here)}, got {text}")
    return device
