"""The section ``sanitizer``: compute-sanitizer on a process that runs tiny shapes."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from . import leash
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
    if any(name not in settings.cells.done for name in TOOLS):
        # Compiled here: the watched process finds the kernels in the cache.
        probe(settings.device, settings.backend)
    numbers: Row = {}
    wrong, unable = [], []
    for name in TOOLS:
        row = settings.cell(name, partial(examine, tool, name, settings))
        if row is None:
            continue
        numbers[name] = row.get("errors")
        if row.get("unable"):
            unable.append(f"{name}: {row['unable']}")
        elif row.get("error") or row["wrong"]:
            wrong.append(f"{name}: {row.get('error') or row['wrong']}, see rows")
    if not wrong and len(unable) == len(TOOLS):
        return Outcome.skip("; ".join(unable))
    return Outcome.of(wrong, {**numbers, **({"left": "; ".join(unable)} if unable else {})})


def examine(tool: str, name: str, settings: Settings) -> Row:
    """What one of the tools says; ``wrong`` of the kernels, or ``unable`` on this machine."""
    status, text = watch(tool, name, settings)
    found = re.search(r"ERROR SUMMARY: (\d+)|RACECHECK SUMMARY: (\d+) hazard", text)
    hazards = None if found is None else int(found[1] or found[2] or 0)
    row: Row = {"status": status, "errors": hazards, "output": text[-3000:], "wrong": None}
    if hazards:
        return {**row, "wrong": f"{hazards} errors"}
    if status is None:
        return {**row, "unable": "not done in time"}
    if any(words in text for words in UNABLE):
        return {**row, "unable": "unable here"}
    if status or hazards is None or "probe done" not in text:
        return {**row, "wrong": f"status {status}"}
    return row


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
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, name)
        seconds = min(max(settings.left, 5), MOST) * 0.6
        env = {**os.environ, **caching}
        status = leash.run([*command, sys.executable, str(SCRIPT), *probing], log, seconds, env=env)
        return status, log.read_text()
