"""The numbers of a run, and the files they are kept in."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from .cases import Case


@dataclass(frozen=True)
class Row:
    """One provider on one case.

    Args:
        ms, ms_p20, ms_p80: milliseconds of one run: median and 20th and 80th percentile.
        rounds: samples these are taken from.
        peak_bytes, largest_bytes: most held at once on top of the inputs (the gradients are part
            of it), and the largest single tensor; None for compiled code.
        resident_bytes: growth of the process in physical memory; None where not Linux.
        flop: the least work of the matrix products of the case, not what the provider does.
        roof_share: flop per second over that of a large fp32 matrix product of the same round.
        times_naive: time of the provider "naive" over this one's, of the same round.
        loss_error, gradient_error: against fp64, relative to its largest value, at check size.
    """

    loss: str
    provider: str
    n: int
    m: int
    d: int
    dtype: str
    mode: str
    workspace: int | None
    ms: float
    ms_p20: float
    ms_p80: float
    rounds: int
    peak_bytes: int | None
    largest_bytes: int | None
    resident_bytes: int | None
    flop: float
    roof_share: float
    times_naive: float | None
    loss_error: float
    gradient_error: float | None

    @property
    def case(self) -> Case:
        negatives = self.m - self.n
        return Case(self.loss, self.n, self.d, negatives, self.dtype, self.mode, self.workspace)


@dataclass(frozen=True)
class Skip:
    """A provider that was not timed on a case; ``wrong`` if it computed something else."""

    case: str
    provider: str
    reason: str
    wrong: bool


@dataclass
class Results:
    environment: dict[str, str | int | None]
    rows: list[Row] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)

    def find(self, case: Case, provider: str) -> Row | None:
        """The row of ``provider`` on ``case``, if it was measured."""
        return next((r for r in self.rows if r.case == case and r.provider == provider), None)

    @property
    def wrong(self) -> Iterator[Skip]:
        return (skip for skip in self.skipped if skip.wrong)

    def save(self, folder: Path) -> None:
        """Writes ``results.json`` (all) and ``results.csv`` (the rows)."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        with (folder / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Row)])
            writer.writeheader()
            writer.writerows(map(asdict, self.rows))

    @classmethod
    def load(cls, file: Path) -> Results:
        """What ``save`` wrote as JSON."""
        data = json.loads(file.read_text())
        return cls(
            data["environment"],
            [Row(**row) for row in data["rows"]],
            [Skip(**skip) for skip in data["skipped"]],
        )
