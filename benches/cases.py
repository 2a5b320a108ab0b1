"""What is measured: cases, and the suites that name lists of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import get_type_hints

import torch
from contrastile.losses.registry import LOSSES, LossEntry

OURS, NAIVE = "contrastile", "naive"
FORWARD = "fwd"
TRAINING = "fwd+bwd"
MODES = (FORWARD, TRAINING)
DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True)
class Case:
    """One row of a result table before the providers are known.

    Args:
        loss: a name in ``LOSSES``, the table of the package.
        n: rows of the score matrix. 4096 pairs of nt_xent are n = 8192.
        d: embedding size.
        negatives: further columns of the score matrix, keys of no row (info_nce).
        dtype: a name in ``DTYPES``.
        mode: "fwd", the loss without gradients, or "fwd+bwd".
        workspace: bytes contrastile may take for a strip of the scores; its default when None.

    Raises:
        ValueError: an unknown name, or sizes the loss does not have.

    Example:
        >>> case = Case.parse("clip_loss:n=4096,d=128,dtype=bf16")
        >>> case.flop == 8 * 4096**2 * 128
        True
        >>> str(case)
        'clip_loss:n=4096,d=128,dtype=bf16'
    """

    loss: str
    n: int
    d: int
    negatives: int = 0
    dtype: str = "fp32"
    mode: str = TRAINING
    workspace: int | None = None

    def __post_init__(self) -> None:
        for value, known in ((self.loss, LOSSES), (self.dtype, DTYPES), (self.mode, MODES)):
            if value not in known:
                raise ValueError(f"case: {value!r} is not one of {', '.join(known)}")
        if self.facts.square and self.negatives:
            raise ValueError(f"case: {self.loss} takes no negatives, got {self.negatives}")
        if min(self.n, self.d, self.negatives + 1) < 1 or self.n % self.facts.views:
            raise ValueError(
                f"case: {self.loss} needs positive sizes and n divisible by {self.facts.views}, "
                f"got n={self.n}, d={self.d}, negatives={self.negatives}"
            )

    def __str__(self) -> str:
        options = {f: getattr(self, f.name) for f in fields(self) if f.name != "loss"}
        given = [f"{f.name}={value}" for f, value in options.items() if value != f.default]
        return f"{self.loss}:{','.join(given)}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case that ``str(case)`` writes: ``loss:n=..,d=..[,dtype=..][,mode=..]...``."""
        loss, _, options = text.partition(":")
        hints = get_type_hints(cls)
        given: dict[str, int | str] = {}
        for option in filter(None, options.split(",")):
            name, _, value = option.partition("=")
            if name not in hints or name == "loss":
                raise ValueError(f"case {text!r}: unknown option {name!r}")
            given[name] = value if hints[name] is str else int(value)
        missing = {"n", "d"} - given.keys()
        if missing:
            raise ValueError(f"case {text!r}: give {' and '.join(sorted(missing))}, as in n=4096")
        return cls(loss, **given)  # type: ignore[arg-type]

    @property
    def m(self) -> int:
        """Columns of the score matrix."""
        return self.n + self.negatives

    @property
    def facts(self) -> LossEntry:
        return LOSSES[self.loss]

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def training(self) -> bool:
        return self.mode == TRAINING

    @property
    def flop(self) -> float:
        """The least floating point work of the matrix products of this loss."""
        units = self.facts.training if self.training else self.facts.forward
        return units * 2 * self.n * self.m * self.d

    @property
    def score_bytes(self) -> int:
        """Bytes of one N x M matrix of this dtype."""
        return self.n * self.m * self.torch_dtype.itemsize

    def resized(self, limit: int) -> Case:
        """The same case with at most ``limit`` rows and ``limit`` negatives."""
        return replace(self, n=min(self.n, limit), negatives=min(self.negatives, limit))


Suite = tuple[Case, ...]
MIB = 2**20

SWEEP = tuple(Case("clip_loss", n, 256) for n in (1024, 2048, 4096, 8192, 16384))
EVERY_LOSS = tuple(Case(loss, 4096, 128) for loss in LOSSES)
SMALL = tuple(Case("clip_loss", n, 256) for n in (256, 1024))
# Batches that people train with, then smaller ones of one of the losses: where does it pay?
TRAINED = (Case("clip_loss", 4096, 512), *(Case(loss, 1024, 256) for loss in LOSSES))
CROSSOVER = tuple(Case("clip_loss", n, 256) for n in (512, 256, 128))
LARGE = Case("clip_loss", 65536, 64, workspace=64 * MIB)
WIDTHS = tuple(
    Case("clip_loss", 8192, d, dtype=dtype)
    for d in (64, 128, 256, 512)
    for dtype in ("fp32", "bf16", "fp16")
)
SELF = Case("nt_xent", 8192, 256)
QUEUE = Case("info_nce", 256, 128, negatives=65536)

SUITES: dict[str, Suite] = {
    "quick": (*TRAINED, *CROSSOVER),
    "small": (*SMALL, *(Case(loss, 512, 128) for loss in LOSSES)),
    "default": tuple(dict.fromkeys((*SWEEP, *EVERY_LOSS, QUEUE))),
    "memory": (*(Case("clip_loss", n, 64, workspace=64 * MIB) for n in (4096, 16384)), LARGE),
    "targets": (*WIDTHS, SELF, *SMALL, LARGE),
}
# Who is measured where nobody is named and not everybody is meant.
CHOSEN = {"quick": (OURS, NAIVE), "targets": (OURS, NAIVE, "open_clip")}


def groups(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases that differ in dtype alone stand together: their times are compared to each other."""
    together: dict[Case, list[Case]] = {}
    for case in cases:
        together.setdefault(replace(case, dtype="fp32"), []).append(case)
    return list(together.values())
