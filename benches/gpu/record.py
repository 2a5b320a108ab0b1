"""What a section found, one JSON file for each, and all of them in one.

Every file is replaced in one step, so that whoever sees it sees all of it, and whoever is killed
while writing it leaves the one before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

PASS, FAIL, SKIPPED, UNFINISHED = "pass", "FAIL", "skipped", "unfinished"
ROOT = Path(__file__).resolve().parents[2]
MERGED = "gpu_check.json"
HASH_DIGITS = 12
# The field of a row that names its cell, and the line of a cell that was begun.
CELL, BEGUN = "cell", "begun"

Row = dict[str, Any]
Sink = Callable[[Row], None]


@cache
def sources() -> str:
    """A digest of everything that computes, so that a result tells which code it is of."""
    digest = hashlib.sha256()
    for folder, names in (
        ("python/contrastile", "*.py"),
        ("triton_kernels", "*.py"),
        ("csrc", "*.*"),
    ):
        for path in sorted((ROOT / folder).rglob(names)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:HASH_DIGITS]


@dataclass(frozen=True)
class Outcome:
    """A verdict, the numbers the table shows, and why, unless it passed."""

    verdict: str
    numbers: Row = field(default_factory=dict)
    reason: str | None = None

    @classmethod
    def of(cls, wrong: Sequence[str], numbers: Row) -> Outcome:
        """Passed if nothing is ``wrong``."""
        return cls(FAIL if wrong else PASS, numbers, "; ".join(wrong) or None)

    @classmethod
    def skip(cls, reason: str) -> Outcome:
        """Nothing was judged."""
        return cls(SKIPPED, {}, reason)


@dataclass(frozen=True)
class Part:
    """One section as written to its file.

    Args:
        left: cells that are still to be done: there was no time, or no process.
        later: cells that a quick pass leaves to the whole one.
        healthy: the device still answered afterwards.
        sources: of which working tree (see ``sources``).
    """

    section: str
    verdict: str
    seconds: float
    numbers: Row
    reason: str | None
    rows: list[Row]
    traceback: str | None = None
    left: int = 0
    later: int = 0
    healthy: bool = True
    sources: str = field(default_factory=sources)
    finished: str = field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )

    def settled(self, quick: bool) -> bool:
        """Whether a pass has nothing more to do for it."""
        return self.left == 0 and (quick or self.later == 0)

    def save(self, folder: Path) -> None:
        write(part_file(folder, self.section), asdict(self))

    @classmethod
    def load(cls, path: Path) -> Part:
        """What ``save`` wrote."""
        return cls(**json.loads(path.read_text()))

    @classmethod
    def unfinished(cls, section: str, rows: list[Row]) -> Part:
        """Of a section in progress, or killed in it together with all that watched it."""
        numbers = {"cells so far": len(rows)}
        return cls(section, UNFINISHED, 0.0, numbers, "it did not end", rows, left=1)


def write(path: Path, data: object) -> None:
    """JSON, in one step."""
    replace_text(path, json.dumps(data, indent=1, default=str) + "\n")


def replace_text(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text)
    draft.replace(path)


def part_file(folder: Path, section: str) -> Path:
    return folder / f"{section}.json"


def rows_file(folder: Path, section: str) -> Path:
    """Rows as they come, a line each: what is left of a section that never ends."""
    return folder / f"{section}.rows"


def read_lines(folder: Path, section: str) -> list[Row]:
    """All lines of the file of rows; the last may be cut where its writer was killed."""
    path = rows_file(folder, section)
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def read_rows(folder: Path, section: str) -> list[Row]:
    return [row for row in read_lines(folder, section) if BEGUN not in row]


def interrupted(folder: Path, section: str) -> str | None:
    """The cell that was begun and has no row."""
    lines = read_lines(folder, section)
    return lines[-1].get(BEGUN) if lines else None


def reopen(folder: Path, section: str) -> None:
    """What is known of the cells of a section, as the beginning of its file of rows."""
    part = part_file(folder, section)
    if rows_file(folder, section).exists() or not part.exists():
        rows = read_rows(folder, section)
    else:
        rows = Part.load(part).rows
    lines = [json.dumps(row, default=str) + "\n" for row in rows if CELL in row]
    replace_text(rows_file(folder, section), "".join(lines))
    part.unlink(missing_ok=True)


def forget(folder: Path, section: str) -> None:
    """Nothing of it was ever done."""
    for file in (part_file, rows_file):
        file(folder, section).unlink(missing_ok=True)


def load_part(folder: Path, section: str) -> Part | None:
    """What there is of a section; None where it was not begun."""
    # A part beside a file of rows is the older or the same.
    if rows_file(folder, section).exists():
        return Part.unfinished(section, read_rows(folder, section))
    path = part_file(folder, section)
    return Part.load(path) if path.exists() else None


def load_parts(folder: Path, names: Iterable[str]) -> list[Part]:
    """What there is of all sections, in the order of ``names``."""
    return [part for name in names if (part := load_part(folder, name)) is not None]


def merge(parts: Sequence[Part], missing: Sequence[str], answers: Row, file: Path) -> None:
    """All parts in one file, what they answer first; and the sections that have not ended."""
    failed = [part.section for part in parts if part.verdict == FAIL]
    data = {
        "verdict": FAIL if failed else UNFINISHED if missing else PASS,
        "answers": answers,
        "failed": failed,
        "missing": list(missing),
        "sections": {part.section: asdict(part) for part in parts},
    }
    write(file, data)


def read_merged(file: Path) -> list[Part]:
    """The parts of a merged file."""
    return [Part(**part) for part in json.loads(file.read_text())["sections"].values()]


def unpack(file: Path, folder: Path) -> None:
    """The parts of a merged file as files of their own, where there are none yet."""
    for part in read_merged(file):
        if load_part(folder, part.section) is None:
            part.save(folder)
