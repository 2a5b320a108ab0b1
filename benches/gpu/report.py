"""What is printed at the end, or of a file: answers first, then a table of the sections."""

from __future__ import annotations

from collections.abc import Sequence

from .answers import answers
from .record import PASS, Part
from .work import brief

WIDEST = 110


def show(parts: Sequence[Part], missing: Sequence[str], current: str) -> None:
    """Prints answers, one line a section, then what went wrong, in full."""
    print()
    for question, told in answers(parts).items():
        print(f"{question}?")
        for text in told:
            print(f"  {text}")
    print()
    print(f"{'section':12} {'verdict':10} {'s':>6}  numbers")
    for part in parts:
        print(line(part, current))
    begun = {part.section for part in parts}
    for name in missing:
        if name not in begun:
            print(f"{name:12} {'not run':10} {'':>6}  no time was left, or it was interrupted")
    for part in parts:
        if part.verdict != PASS and part.reason and len(part.reason) > WIDEST:
            print(f"\n{part.section}: {part.reason[:2000]}")
        if part.traceback:
            print(f"\n{part.section}: {part.traceback[-2000:]}")


def line(part: Part, current: str) -> str:
    """One section; of other sources than the working tree's where it says so."""
    numbers = ", ".join(f"{name} {brief(value)}" for name, value in part.numbers.items())
    left = part.left + part.later
    said = [f"{left} more to do" if left else None, part.reason, numbers]
    text = "; ".join(filter(None, said)).replace("\n", " ")
    text = text if len(text) <= WIDEST or part.verdict == PASS else text[: WIDEST - 3] + "..."
    old = "" if part.sources == current else f" (of sources {part.sources})"
    return f"{part.section:12} {part.verdict:10} {part.seconds:6.1f}  {text}{old}"
