"""The options of the demo."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ..problem import InputError
from .objectives import OBJECTIVES

# The demo has about 5,000 pairs of an image and a name.
LARGEST_BATCH = 4096
MOST_RANKS = 16


@dataclass(frozen=True)
class DemoOptions:
    """What to train, how long, and where to put the results."""

    loss: str = "clip"
    batch: int = 1024
    effective_batch: int | None = None
    ranks: int = 1
    steps: int = 400
    seed: int = 0
    backend: str = "auto"
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    dense: bool = True
    out: Path = Path("contrastile-demo")

    def __post_init__(self) -> None:
        if self.compared < max(self.batch, self.ranks):
            raise InputError(
                f"contrastile demo: --effective-batch must be at least --batch {self.batch} and "
                f"--ranks {self.ranks}, got {self.compared}"
            )
        if self.ranks > 1 and self.device.type != "cpu":
            raise InputError(
                f"contrastile demo: --ranks are processes on the CPU, got --device {self.device}"
            )

    @property
    def compared(self) -> int:
        """Pairs that one loss compares."""
        return self.effective_batch or self.batch

    @property
    def sub_batch(self) -> int | None:
        """How many of them encoders see at once, if not all."""
        return None if self.compared == self.batch else self.batch

    @property
    def batches(self) -> str:
        """Size and way of a batch, in words."""
        text = f"batch {self.compared}"
        if self.sub_batch is not None:
            text += f" in sub-batches of {self.sub_batch}"
        return text if self.ranks == 1 else f"{text} on {self.ranks} ranks"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Declares the options, with the defaults of this class."""
        parser.set_defaults(**{field.name: field.default for field in fields(cls)})
        add = parser.add_argument
        add("--loss", choices=OBJECTIVES, help="the loss to train with (%(default)s)")
        add("--batch", type=_batch, metavar="N", help="pairs in a batch (%(default)s)")
        add(
            "--effective-batch",
            type=_batch,
            metavar="N",
            help="pairs that the loss compares, of which encoders see --batch at once (gradient "
            "cache); as many as --batch unless given",
        )
        add(
            "--ranks",
            type=_ranks,
            metavar="N",
            help="processes that Contrastile's side is split over (%(default)s)",
        )
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


def _ranks(text: str) -> int:
    return _between(text, 1, MOST_RANKS)


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
