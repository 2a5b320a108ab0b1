"""Sections run in a process of their own, which is replaced when it dies or takes too long."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from .cells import failed
from .leash import end_group
from .record import (
    CELL,
    FAIL,
    Part,
    interrupted,
    load_part,
    part_file,
    read_rows,
    reopen,
    rows_file,
)

SCRIPT = Path(__file__).resolve().parents[1] / "gpu_check.py"
# Seconds that a call may take: less than the ten minutes after which some machines end it.
LIMIT = 540.0
# Beyond the time after which a section itself starts nothing new; and for a process to start.
GRACE, START = 20.0, 40.0
# No section is begun with fewer seconds.
LEAST = 5.0
POLL = 0.02
QUICK, WHOLE = "quick", "whole"


@dataclass(frozen=True)
class Step:
    """
    Args:
        seconds: after which the section starts nothing new.
        until: the seconds of the call after which nothing may run.
        quick: only its most important cells.
        renews: what comes after it runs in a new process, because it changes what that finds.
    """

    section: str
    seconds: float
    until: float
    quick: bool = False
    renews: bool = False


class Process(Protocol):
    """What is needed of ``subprocess.Popen``."""

    pid: int
    returncode: int
    stdin: IO[str] | None

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...


def start_process(arguments: Sequence[str]) -> Process:
    """A process that runs sections as told on its standard input, the leader of a group."""
    command = [sys.executable, str(SCRIPT), "--worker", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)


class Worker:
    """The process that runs sections."""

    def __init__(self, folder: Path, process: Process) -> None:
        self.folder, self.process = folder, process
        self.fresh = True

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def run(self, step: Step, seconds: float, progress: Callable[[], object]) -> Part:
        """The section's part: its own, or one that says how it ended instead."""
        reopen(self.folder, step.section)
        rows, part = rows_file(self.folder, step.section), part_file(self.folder, step.section)
        start, size = time.monotonic(), rows.stat().st_size
        allowed = seconds + GRACE + (START if self.fresh else 0.0)
        self.fresh = False
        reason = None
        # Whoever is killed from here on has left word of where it was.
        progress()
        assert self.process.stdin is not None
        # A process that is gone is seen below.
        with suppress(BrokenPipeError):
            print(step.section, seconds, QUICK if step.quick else WHOLE, file=self.process.stdin)
            self.process.stdin.flush()
        while reason is None:
            if not rows.exists():
                found = Part.load(part)
                if not found.healthy:
                    self.stop()
                return found
            if (now := size_of(rows)) != size:
                size = now
                progress()
            if not self.alive:
                reason = f"the process ended with status {self.process.returncode}"
            elif time.monotonic() - start > allowed:
                reason = f"stopped after {allowed:.0f} s"
            time.sleep(POLL)
        self.stop()
        return lost(self.folder, step.section, reason, time.monotonic() - start)

    def stop(self) -> None:
        """Ends the process and what it has started."""
        end_group(self.process.pid)
        self.process.wait()
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()


def size_of(path: Path) -> int:
    """Bytes; -1 where there is no such file any more."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return -1


def lost(folder: Path, section: str, reason: str, seconds: float) -> Part:
    """The part of a section whose process did not live to write it, with the rows it had; the cell
    it was at is not done again.
    """
    rows, cell = read_rows(folder, section), interrupted(folder, section)
    if cell is not None:
        rows.append({CELL: cell, **failed(reason)})
    part = Part(section, FAIL, round(seconds, 1), {}, reason, rows, left=1, healthy=False)
    part.save(folder)
    rows_file(folder, section).unlink()
    return part


def supervise(
    steps: Iterable[Step],
    folder: Path,
    options: Sequence[str],
    done: Callable[[Part], None],
    progress: Callable[[], object],
    start: Callable[[Sequence[str]], Process] = start_process,
) -> None:
    """Runs the steps, each with its seconds or what is left of the call's.

    A section whose process or device is lost goes on in a new process, as long as there are cells
    to go on with.
    """
    began, worker = time.monotonic(), None
    try:
        for step in steps:
            spent, more = 0.0, True
            while more and spent < step.seconds:
                until = step.until - GRACE - (time.monotonic() - began)
                seconds = min(max(step.seconds - spent, LEAST), until)
                if seconds < LEAST:
                    print(f"{step.section}: left out, no time", file=sys.stderr, flush=True)
                    break
                if worker is None or not worker.alive:
                    worker = Worker(folder, start(["--parts", str(folder), *options]))
                known, begun = cells_of(folder, step.section), time.monotonic()
                part = worker.run(step, seconds, progress)
                done(part)
                spent += time.monotonic() - begun
                more = not part.healthy and cells_of(folder, step.section) > known
            if step.renews and worker is not None:
                worker.stop()
    finally:
        if worker is not None:
            worker.stop()


def cells_of(folder: Path, section: str) -> int:
    """How many cells of a section have a row."""
    part = load_part(folder, section)
    return 0 if part is None else sum(CELL in row for row in part.rows)
