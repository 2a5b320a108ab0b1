"""The process that computes: one section after the other, as told on its standard input.

It may crash, hang, or lose its device: whoever started it (supervise.py) starts another.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from .cells import Cells
from .record import BEGUN, FAIL, Outcome, Part, Row, read_rows, rows_file
from .recorder import Recorder
from .sections import SECTIONS, Section
from .settings import Settings, recovers
from .supervise import QUICK


def serve(folder: Path, settings: Settings) -> int:
    """Runs the sections that are asked for; 3 if the device no longer answers."""
    # What is imported stays: nobody has to look at it again after every cell.
    gc.freeze()
    for line in sys.stdin:
        name, seconds, quick = line.split()
        own = replace(settings, seconds=float(seconds), quick=quick == QUICK)
        part = run_section(SECTIONS[name], folder, own)
        part.save(folder)
        rows_file(folder, name).unlink()
        if not part.healthy:
            return 3
    return 0


def run_section(section: Section, folder: Path, settings: Settings) -> Part:
    """The section's part, also where it raised; its rows are in their file as they come, behind
    those that were there.
    """
    start, known = time.monotonic(), read_rows(folder, section.name)
    rows, cells = list(known), Cells.of(known)
    with rows_file(folder, section.name).open("a") as file:

        def put(line: Row) -> None:
            file.write(json.dumps(line, default=str) + "\n")
            file.flush()

        def add(row: Row) -> None:
            rows.append(row)
            put(row)
            print(f"  {section.name}: {shown(row)}", file=sys.stderr, flush=True)

        own = replace(
            settings, row=add, begun=lambda cell: put({BEGUN: cell}), cells=cells, start=start
        )
        outcome = Outcome(FAIL, reason="nothing came back")
        with Recorder() as recorder:
            outcome = section.run(own)
        healthy = recovers(settings.device)
    if recorder.error is not None:
        outcome = Outcome(FAIL, {}, recorder.error)
    return Part(
        section=section.name,
        verdict=outcome.verdict,
        seconds=round(time.monotonic() - start, 1),
        numbers=outcome.numbers,
        reason=outcome.reason,
        rows=rows,
        traceback=recorder.traceback,
        # What a lost device kept from being done is done in the next process.
        left=cells.left + (not healthy),
        later=cells.later,
        healthy=healthy,
    )


def shown(row: Row) -> str:
    """A row on one line."""
    return ", ".join(f"{name} {brief(value)}" for name, value in row.items() if name != "traceback")


def brief(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
