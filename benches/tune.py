"""Launch configurations tuned on the present GPU: ``contrastile tune --out FILE``.

Tried is only what changes no arithmetic, so results are bitwise the same with and without the file:
one field of one kernel after the other, each value by the median time of a whole step.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from contrastile.backends.triton.device import Device
from contrastile.backends.triton.launch import (
    TUNABLE,
    VARIABLE,
    Launch,
    Purpose,
    kind_of,
    shipped,
    trying,
)
from contrastile.problem import InputError

from .cases import DTYPES
from .problems import Step, steps
from .timing import median_ms

# The steps that are timed, and the kernels each is timed for. General forms hardly run but in small
# problems, whose time is the host's.
TIMED = {
    "clip_loss": (Purpose.REDUCE, Purpose.WEIGH),
    "info_nce": (Purpose.REDUCE_ROWS,),
    "siglip_loss": (Purpose.WEIGH_AND_SUM,),
    "siglip_loss of rows": (Purpose.REDUCE_TERMS, Purpose.WEIGH_TERMS),
    "nt_xent": (Purpose.WEIGH_DIAGONAL,),
    "clip_loss, kept": (Purpose.REDUCE_AND_KEEP, Purpose.WEIGH_KEPT),
}
VALUES: dict[str, tuple[int | bool, ...]] = {
    "stages": (1, 2, 3, 4, 5),
    "group": (2, 4, 8, 16),
    "per_processor": (1, 2, 3, 4, 8),
    "flatten": (False, True),
}
# Of the time before: what gains less may be noise.
GAIN = 0.98
# The workspace keeps the dot products of a quarter of the rows.
ROWS, KEPT_SHARE = 16_384, 4
WHY = "Measured by contrastile tune: what beat the shipped launches."
Key = tuple[str, Purpose]
Timer = Callable[[Step], float]


@dataclass(frozen=True)
class Work:
    """What is timed: every dtype at every embedding size."""

    device: torch.device
    dtypes: Sequence[str]
    sizes: Sequence[int]
    rows: int

    def steps(self, kind: str, name: str) -> list[Step]:
        """The named step, for each dtype of the kind and each size."""
        rows = self.rows // KEPT_SHARE if name.endswith("kept") else self.rows
        dtypes = [DTYPES[dtype] for dtype in self.dtypes if kind_of(DTYPES[dtype]) == kind]
        return [steps(d, self.device, rows, size)[name] for d in dtypes for size in self.sizes]

    def all_steps(self, kind: str) -> list[Step]:
        """Every kind of problem, small."""
        dtypes = [dtype for dtype in DTYPES.values() if kind_of(dtype) == kind]
        return [step for dtype in dtypes for step in steps(dtype, self.device).values()]


class Tuner:
    """Collects what is faster than shipped, the milliseconds as shipped and as found, and what did
    not run.
    """

    def __init__(self, work: Work, time: Timer) -> None:
        self.work = work
        self.time = time
        self.arch = Device.of(work.device).arch
        self.launches: dict[Key, Launch] = {}
        self.milliseconds: dict[Key, tuple[float, float]] = {}
        self.skipped: list[str] = []

    def tune(self) -> Iterator[Key]:
        """Every kernel that is timed, in every class of dtypes, one at a time."""
        table = shipped(self.arch)
        for kind in dict.fromkeys(kind_of(DTYPES[dtype]) for dtype in self.work.dtypes):
            for name, purposes in TIMED.items():
                timed = self.work.steps(kind, name)
                for purpose in purposes:
                    self._tune_one((kind, purpose), table[kind, purpose], timed)
                    yield kind, purpose

    def _tune_one(self, key: Key, before: Launch, timed: list[Step]) -> None:
        best = self._search(key, before, timed)
        if best != before and self._attempt(key, best, self.work.all_steps(key[0]), _once) is None:
            best = before
        # Side by side: since the search began, the clock may have sunk.
        old = self._total(key, before, timed, self.time)
        new = self._total(key, best, timed, self.time) if best != before else old
        if new < GAIN * old:
            self.launches[key] = best
        self.milliseconds[key] = old, min(old, new)

    def _search(self, key: Key, before: Launch, timed: list[Step]) -> Launch:
        best, least = before, self._total(key, before, timed, self.time)
        for name in TUNABLE:
            for candidate in candidates(best, name):
                ms = self._attempt(key, candidate, timed, self.time)
                if ms is not None and ms < GAIN * least:
                    best, least = candidate, ms
        return best

    def _attempt(self, key: Key, launch: Launch, run: list[Step], time: Timer) -> float | None:
        """The total, or None where it does not compile or takes more than the GPU has."""
        from triton.errors import TritonError

        try:
            return self._total(key, launch, run, time)
        except (RuntimeError, TritonError) as error:
            tried = ", ".join(f"{name} {getattr(launch, name)}" for name in TUNABLE)
            reason = str(error).partition("\n")[0] or type(error).__name__
            self.skipped.append(f"{key[0]}, {key[1].value}: {tried}: {reason}")
            return None

    def _total(self, key: Key, launch: Launch, run: list[Step], time: Timer) -> float:
        with trying({key: launch}):
            return sum(time(step) for step in run)

    def content(self) -> dict[str, Any]:
        """The file: as those that are shipped, and what was measured."""
        tables: dict[str, Any] = {}
        for (kind, purpose), launch in self.launches.items():
            tables.setdefault(kind, {})[purpose.value] = asdict(launch)
        return {"arch": self.arch, "why": WHY, "measured": self._measured(), **tables}

    def _measured(self) -> dict[str, Any]:
        cuda = self.work.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.work.device) if cuda else self.arch,
            **{name: version(name) for name in ("contrastile", "torch", "triton")},
            "rows": self.work.rows,
            "dtypes": list(self.work.dtypes),
            "sizes": list(self.work.sizes),
            "milliseconds": {
                f"{kind}, {purpose.value}": {"shipped": old, "tuned": new}
                for (kind, purpose), (old, new) in self.milliseconds.items()
            },
            "skipped": self.skipped,
        }


def candidates(launch: Launch, name: str) -> Iterator[Launch]:
    """The launch with every other value of a field."""
    for value in VALUES[name]:
        if value != getattr(launch, name):
            change: dict[str, Any] = {name: value}
            yield replace(launch, **change)


def _once(step: Step) -> float:
    step()
    return 0.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    new = argparse.ArgumentParser(
        prog="contrastile tune",
        description="Times launch configurations on the present GPU and writes those that are "
        f"faster than the shipped ones; {VARIABLE}=FILE uses them, and no result changes. "
        "Takes minutes for each dtype: every candidate is compiled.",
    )
    new.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    new.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bf16", "fp32"])
    new.add_argument("--size", nargs="+", type=int, default=[512], help="embedding sizes")
    new.add_argument("--rows", type=int, default=ROWS, help="of the batch")
    return new


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    command = parser()
    options = command.parse_args(argv)
    if not torch.cuda.is_available():
        raise InputError("contrastile tune needs a GPU, and torch finds none")
    if not options.out.parent.is_dir():
        command.error(f"--out: there is no folder {options.out.parent}")
    device = torch.device("cuda", torch.cuda.current_device())
    work = Work(device, options.dtype, options.size, options.rows)
    tuner = Tuner(work, lambda step: median_ms(step, device, seconds=0.2))
    for key in tuner.tune():
        old, new = tuner.milliseconds[key]
        print(f"{key[0]:7}{key[1].value:27}{old:9.3f} ms shipped {new:9.3f} ms tuned", flush=True)
    for line in tuner.skipped:
        print(f"skipped: {line}")
    options.out.write_text(json.dumps(tuner.content(), indent=2) + "\n", encoding="utf-8")
    print(f"{VARIABLE}={options.out} uses the {len(tuner.launches)} that are faster")
    return 0
