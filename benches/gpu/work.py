"""The process that computes: one section after the other, as told on its standard input.

It may crash, hang, or lose its device: whoever started it (supervise.py) starts another.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import torch

from .record import FAIL, Outcome, Part, Row, rows_file, sources
from .recorder import Recorder
from .sections import SECTIONS, Section
from .settings import Settings, synchronize


def serve(folder: Path, settings: Settings) -> int:
    """Runs the sections that are asked for; 3 if the device no longer answers."""
    for line in sys.stdin:
        name, seconds = line.split()
        part = run_section(SECTIONS[name], folder, replace(settings, seconds=float(seconds)))
        part.save(folder)
        rows_file(folder, name).unlink()
        if not part.healthy:
            return 3
    return 0


def run_section(section: Section, folder: Path, settings: Settings) -> Part:
    """The section's part, also where it raised; its rows are in their file as they come."""
    start, rows = time.monotonic(), list[Row]()
    with rows_file(folder, section.name).open("w") as file:

        def add(row: Row) -> None:
            rows.append(row)
            file.write(json.dumps(row, default=str) + "\n")
            file.flush()
            print(f"  {section.name}: {shown(row)}", file=sys.stderr, flush=True)

        own = replace(settings, row=add, start=start)
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
        healthy=healthy,
        sources=sources(),
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def recovers(device: torch.device) -> bool:
    """Whether the device still works, its memory given back."""
    gc.collect()
    with Recorder() as recorder:
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return recorder.error is None


def shown(row: Row) -> str:
    """A row on one line."""
    return ", ".join(f"{name} {brief(value)}" for name, value in row.items())


def brief(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
