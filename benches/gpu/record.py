"""What a section found, one JSON file for each, and all of them in one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PASS, FAIL, SKIPPED = "pass", "FAIL", "skipped"
ROOT = Path(__file__).resolve().parents[2]
MERGED = "gpu_check.json"
HASH_DIGITS = 12

Row = dict[str, Any]
Sink = Callable[[Row], None]


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
        healthy: the device still answered afterwards.
        sources: of which working tree (see ``sources``).
    """

    section: str
    verdict: str
    seconds: float
    numbers: Row
    reason: str | None
    rows: list[Row]
    traceback: str | None
    healthy: bool
    sources: str
    finished: str

    def save(self, folder: Path) -> None:
        """In one step: whoever sees the file sees all of it."""
        path = part_file(folder, self.section)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self), indent=1, default=str) + "\n")
        draft.rename(path)

    @classmethod
    def load(cls, path: Path) -> Part:
        """What ``save`` wrote."""
        return cls(**json.loads(path.read_text()))


def part_file(folder: Path, section: str) -> Path:
    return folder / f"{section}.json"


def rows_file(folder: Path, section: str) -> Path:
    """Rows as they come, a line each: what is left of a section that never ends."""
    return folder / f"{section}.rows"


def read_rows(folder: Path, section: str) -> list[Row]:
    path = rows_file(folder, section)
    if not path.exists():
        return []
    # A line may be cut where the writer was killed.
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def load_parts(folder: Path, names: Iterable[str]) -> list[Part]:
    """The parts that exist, in the order of ``names``."""
    files = [part_file(folder, name) for name in names]
    return [Part.load(file) for file in files if file.exists()]


def merge(parts: Sequence[Part], missing: Sequence[str], file: Path) -> None:
    """All parts in one file, and the sections asked for that have none."""
    failed = [part.section for part in parts if part.verdict == FAIL]
    data = {
        "verdict": FAIL if failed or missing else PASS,
        "failed": failed,
        "missing": list(missing),
        "sections": {part.section: asdict(part) for part in parts},
    }
    file.write_text(json.dumps(data, indent=1, default=str) + "\n")


def unpack(file: Path, folder: Path) -> None:
    """The parts of a merged file as files of their own, where there are none yet."""
    for name, part in json.loads(file.read_text())["sections"].items():
        if not part_file(folder, name).exists():
            Part(**part).save(folder)


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
