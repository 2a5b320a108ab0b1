"""The table at the end: section, verdict, key numbers, seconds."""

from __future__ import annotations

from collections.abc import Sequence

from .record import PASS, Part
from .work import brief

WIDEST = 110


def show_parts(parts: Sequence[Part], missing: Sequence[str], current: str) -> None:
    """Prints one line a section, then what went wrong, in full."""
    print()
    print(f"{'section':12} {'verdict':8} {'s':>6}  numbers")
    for part in parts:
        print(line(part, current))
    for name in missing:
        print(f"{name:12} {'not run':8} {'':>6}  no time was left, or it was interrupted")
    for part in parts:
        if part.verdict != PASS and part.reason and len(part.reason) > WIDEST:
            print(f"\n{part.section}: {part.reason[:2000]}")
        if part.traceback:
            print(f"\n{part.section}: {part.traceback[-2000:]}")


def line(part: Part, current: str) -> str:
    """One section; of other sources than the working tree's where it says so."""
    numbers = ", ".join(f"{name} {brief(value)}" for name, value in part.numbers.items())
    said = [text for text in (part.reason, numbers) if text]
    text = "; ".join(said).replace("\n", " ")
    text = text if len(text) <= WIDEST or part.verdict == PASS else text[: WIDEST - 3] + "..."
    old = "" if part.sources == current else f" (of sources {part.sources})"
    return f"{part.section:12} {part.verdict:8} {part.seconds:6.1f}  {text}{old}"
