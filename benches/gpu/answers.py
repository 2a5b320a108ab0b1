"""What everybody asks first, as far as it is known: is it right, and how fast is it?"""

from __future__ import annotations

from collections.abc import Sequence

from .record import CELL, FAIL, SKIPPED, Part, Row
from .speed import COMPILED, HEADLINE, OURS, PLAIN, Timed
from .targets import MILLISECONDS

JUDGING = ("smoke", "errors", "cuda-errors", "cuda-repeats", "repeats", "large")
UNKNOWN = "not known yet"


def answers(parts: Sequence[Part]) -> Row:
    """A few lines on each."""
    return {"right": right(parts), "fast": fast(parts)}


def right(parts: Sequence[Part]) -> list[str]:
    """Of each section that compares results with the truth or with one another."""
    known = {part.section: part for part in parts}
    judged = [line(known[name]) for name in JUDGING if name in known]
    return judged or [UNKNOWN]


def line(part: Part) -> str:
    """How many cells are right, and the worst of them as far as they are told."""
    if part.verdict == SKIPPED:
        return f"{part.section}: skipped, {part.reason}"
    cells = [row for row in part.rows if CELL in row]
    wrong = [row[CELL] for row in cells if is_wrong(row)]
    counted = f"{len(cells) - len(wrong)} of {len(cells)} right"
    shares = [row["share"] for row in cells if "share" in row]
    worst = f", worst error {max(shares):.3g} of what is allowed" if shares else ""
    left = ", more to do" if part.left or part.later else ""
    # What a section judges over all of its cells has no cell of its own.
    other = f", {part.reason}" if part.verdict == FAIL and not wrong and not part.left else ""
    told = f": {', '.join(wrong)}" if wrong else ""
    return f"{part.section}: {counted}{told}{worst}{left}{other}"


def is_wrong(row: Row) -> bool:
    """As the sections in ``JUDGING`` tell it."""
    return bool("error" in row or row.get("beyond") or row.get("differing") or row.get("wrong"))


def fast(parts: Sequence[Part]) -> list[str]:
    """Milliseconds of the first cells, beside the plain formula's and what is wanted."""
    rows = {row[CELL]: row for p in parts if p.section == "speed" for row in p.rows if CELL in row}
    return [compared(rows, *which) for which in HEADLINE] if rows else [UNKNOWN]


def compared(rows: dict[str, Row], loss: str, n: int, d: int) -> str:
    """Our time and the others'."""
    ours = Timed(loss, OURS, n, d)
    times = {
        provider: rows.get(Timed(loss, provider, n, d).name, {})
        for provider in (OURS, PLAIN, COMPILED)
    }
    own = times[OURS].get("ms")
    told = [f"{ours}: {told_time(times[OURS])}"]
    if (loss, n, d) in MILLISECONDS:
        told[0] += f" (wanted {MILLISECONDS[loss, n, d]:g})"
    for provider, name in ((PLAIN, "eager"), (COMPILED, "torch.compile")):
        if times[provider]:
            ms = times[provider].get("ms")
            over = f" ({ms / own:.3g} x ours)" if ms is not None and own else ""
            told.append(f"{name} {told_time(times[provider])}{over}")
    return ", ".join(told)


def told_time(row: Row) -> str:
    return f"{row['ms']:.4g} ms" if "ms" in row else row.get("error", UNKNOWN)
