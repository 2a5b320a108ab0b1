"""Measured figures beside what is aimed at: one that is missed is shown, and is no failure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .record import Row
from .settings import Settings

MET, MISSED, UNKNOWN = "met", "MISSED", "not measured"


@dataclass(frozen=True)
class Aim:
    """A figure that is to be at most, or ``at_least``, the wanted one."""

    what: str
    unit: str
    measured: float | None
    wanted: float
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return UNKNOWN
        # Written so that a NaN misses.
        if self.at_least:
            return MET if self.measured >= self.wanted else MISSED
        return MET if self.measured <= self.wanted else MISSED

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        measured = "" if self.measured is None else f" {self.measured:.3g}"
        return f"{self.what}{measured} {self.unit} ({sign} {self.wanted:g})"


def judged(aims: Iterable[Aim], settings: Settings) -> Row:
    """A row for each, and what the table shows of them."""
    # What a quick pass leaves for later is not missed by it.
    aims = [aim for aim in aims if aim.measured is not None or not settings.quick]
    for aim in aims:
        row: Row = {"target": aim.what, "unit": aim.unit, "measured": aim.measured}
        settings.row({**row, "wanted": aim.wanted, "verdict": aim.verdict})
    numbers: Row = {"targets met": f"{sum(a.verdict == MET for a in aims)} of {len(aims)}"}
    for verdict in (MISSED, UNKNOWN):
        told = "; ".join(str(aim) for aim in aims if aim.verdict == verdict)
        numbers |= {verdict: told} if told else {}
    return numbers
