"""Sections run in a process of their own, which is replaced when it dies or takes too long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from .record import FAIL, Part, part_file, read_rows, rows_file, sources

SCRIPT = Path(__file__).resolve().parents[1] / "gpu_check.py"
# Seconds that a call may take: less than the ten minutes after which some machines end it.
LIMIT = 540.0
# Beyond the time after which a section itself starts nothing new; and for a process to start.
GRACE, START = 20.0, 40.0
# No section is begun with fewer seconds.
LEAST = 5.0
POLL = 0.02


class Worker:
    """A process that runs sections, in a process group of its own."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        command = [sys.executable, str(SCRIPT), "--worker", "--parts", str(folder), *options]
        self.folder = folder
        self.fresh = True
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def run(self, section: str, seconds: float) -> Part:
        """The section's part: its own, or one that says how it ended instead."""
        for file in (part_file, rows_file):
            file(self.folder, section).unlink(missing_ok=True)
        start = time.monotonic()
        allowed = seconds + GRACE + (START if self.fresh else 0.0)
        self.fresh = False
        reason = None
        assert self.process.stdin is not None
        # A process that is gone is seen below.
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{section} {seconds}\n")
            self.process.stdin.flush()
        while reason is None:
            if part_file(self.folder, section).exists():
                part = Part.load(part_file(self.folder, section))
                if not part.healthy:
                    self.stop()
                return part
            if not self.alive:
                reason = f"the process ended with status {self.process.returncode}"
            elif time.monotonic() - start > allowed:
                reason = f"stopped after {allowed:.0f} s"
            time.sleep(POLL)
        self.stop()
        return lost(self.folder, section, reason, time.monotonic() - start)

    def stop(self) -> None:
        """Ends the process and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()


def lost(folder: Path, section: str, reason: str, seconds: float) -> Part:
    """The part of a section whose process did not live to write it, with the rows it had."""
    part = Part(
        section=section,
        verdict=FAIL,
        seconds=round(seconds, 1),
        numbers={},
        reason=reason,
        rows=read_rows(folder, section),
        traceback=None,
        healthy=False,
        sources=sources(),
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    part.save(folder)
    return part


def supervise(
    names: Sequence[str],
    budgets: Callable[[str], float],
    folder: Path,
    options: Sequence[str],
    limit: float,
    done: Callable[[Part], None],
    renewing: Collection[str] = (),
) -> None:
    """Runs sections until ``limit`` seconds have passed; the last gets what is left of them.

    After those in ``renewing`` the process is replaced: they changed what it finds.
    """
    start, worker = time.monotonic(), None
    try:
        for name in names:
            seconds = min(budgets(name), limit - GRACE - (time.monotonic() - start))
            if seconds < LEAST:
                print(f"{name}: left out, no time", file=sys.stderr, flush=True)
                continue
            if worker is None or not worker.alive:
                worker = Worker(folder, options)
            done(worker.run(name, seconds))
            if name in renewing:
                worker.stop()
    finally:
        if worker is not None:
            worker.stop()
