"""The cells of a section: each is done once, whatever ends the process in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .record import CELL, Row, Sink
from .recorder import Recorder


class LostDevice(RuntimeError):
    """The device no longer answers, and will not in this process."""


@dataclass
class Cells:
    """
    Args:
        done: the rows of cells, by name.
        left: cells there was no time for.
        later: cells that a quick pass leaves to the whole one.
    """

    done: dict[str, Row] = field(default_factory=dict)
    left: int = 0
    later: int = 0

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Cells:
        """Those that are done already."""
        return cls({row[CELL]: row for row in rows})

    def settle(self, name: str, row: Row, sink: Sink) -> Row:
        """The row of a cell that was done now, told to ``sink``."""
        row = self.done[name] = {CELL: name, **row}
        sink(row)
        return row


def attempt(compute: Callable[[], Row]) -> Row:
    """The row, or the error in its place."""
    row: Row = {}
    with Recorder() as recorder:
        row = compute()
    return row if recorder.error is None else failed(recorder.error, recorder.traceback)


def failed(error: str, traceback: str | None = None) -> Row:
    """The row of a cell that came to nothing: why on one line, and the whole story."""
    row: Row = {"error": error.splitlines()[0]}
    return row if traceback is None else {**row, "traceback": traceback[-2000:]}
