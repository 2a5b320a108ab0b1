"""Processes that end with the one that started them, however that ends.

Needs the standard library alone, because it also runs as a script around a command: what the
command has started ends as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

POLL = 0.2


def end_with(parent: int) -> None:
    """From now on, once ``parent`` is gone, so are this process and its group."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        end_group(os.getpid() if os.getpgrp() == os.getpid() else 0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_group(leader: int) -> None:
    """Ends the group that a process leads, if it still does; 0 is none."""
    if leader:
        with suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


def run(
    command: list[str],
    log: Path,
    seconds: float,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> int | None:
    """The status of a command, None if it took too long; what it says is in ``log``."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout=max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            return None
        finally:
            end_group(process.pid)
            process.wait()


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    raise SystemExit(subprocess.call(sys.argv[2:]))
