"""The section ``sanitizer``: compute-sanitizer on a process that runs tiny shapes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from .host import probe
from .record import Outcome, Row
from .settings import Settings
from .supervise import SCRIPT

NAME = "compute-sanitizer"
PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", "/opt/cuda/bin")
TOOLS = ("memcheck", "racecheck")
# Seconds for all of them.
MOST = 300.0
# What it says of machines it cannot work on.
UNABLE = ("Device not supported", "not supported on this", "Unable to find injection library")


def sanitizer_section(settings: Settings) -> Outcome:
    """No access out of bounds, no race in shared memory."""
    if not settings.on_gpu:
        return Outcome.skip("needs a GPU")
    tool = find()
    if tool is None:
        return Outcome.skip(f"{NAME} is not installed")
    # Compiled here: the watched process finds the kernels in the cache.
    probe(settings.device, settings.backend)
    numbers: Row = {}
    wrong, unable = [], []
    for name in TOOLS:
        status, text = watch(tool, name, settings)
        found = re.search(r"ERROR SUMMARY: (\d+)|RACECHECK SUMMARY: (\d+) hazard", text)
        hazards = None if found is None else int(found[1] or found[2] or 0)
        settings.row({"tool": name, "status": status, "errors": hazards, "output": text[-3000:]})
        numbers[name] = hazards
        if hazards:
            wrong.append(f"{name}: {hazards} errors, see rows")
        elif status is None or any(words in text for words in UNABLE):
            unable.append(f"{name}: {'not done in time' if status is None else 'unable here'}")
        elif status or hazards is None or "probe done" not in text:
            wrong.append(f"{name}: status {status}, see rows")
    if not wrong and len(unable) == len(TOOLS):
        return Outcome.skip("; ".join(unable))
    return Outcome.of(wrong, {**numbers, **({"left": "; ".join(unable)} if unable else {})})


def find() -> str | None:
    """On the path or where CUDA puts it."""
    found = shutil.which(NAME)
    places = (Path(place, NAME) for place in PLACES)
    return found or next((str(path) for path in places if path.exists()), None)


def watch(tool: str, name: str, settings: Settings) -> tuple[int | None, str]:
    """Status (None: stopped) and output of the probe under one of the tools."""
    probing = ["--probe", "--device", str(settings.device), "--backend", settings.backend]
    command = [tool, "--tool", name, "--error-exitcode", "99", "--report-api-errors", "no"]
    # Without torch's cache every tensor is an allocation of its own, with bounds to cross.
    caching = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if name == "memcheck" else {}
    process = subprocess.Popen(
        [*command, sys.executable, str(SCRIPT), *probing],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **caching},
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=min(max(settings.left, 5), MOST) * 0.6)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    return process.returncode, text
