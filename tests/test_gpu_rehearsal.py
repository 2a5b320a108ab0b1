"""The whole GPU check on a stub of a device, each section killed in the middle and gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from contrastile.benches.gpu.record import MERGED, PASS, SKIPPED
from contrastile.benches.gpu.sections import QUICK, usual

SCRIPT = Path(__file__).with_name("rehearsal.py")
QUICKLY = {"errors", "speed", "cuda-errors", "cuda-repeats", "cuda-speed"}


def rehearse(how: str, folder: Path, backend: str, *arguments: str) -> tuple[int, str]:
    """Status and report."""
    given = ["--backend", backend, "--out", str(folder / "out"), *arguments]
    command = [sys.executable, str(SCRIPT), how, str(folder), *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stderr[-5000:], done.stdout)
    return done.returncode, done.stdout


def merged(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / MERGED).read_text())


def cells(folder: Path) -> Counter[str]:
    """How often each was computed."""
    return Counter((folder / "done").read_text().splitlines())


def killed_whole(folder: Path, backend: str) -> None:
    """The quick pass in a call of its own; then, in the rest, nothing but files lives on."""
    status, text = rehearse("nothing", folder, backend, "--quick")
    first = merged(folder)
    assert status == 0 and first["missing"] == [] and set(first["sections"]) == set(QUICK)
    assert {name for name, part in first["sections"].items() if part["later"]} == QUICKLY
    assert "smoke: 1 of 1 right" in text and "clip_loss 24 x 16: 1 ms, eager 1 ms" in text

    status, text = rehearse("all", folder, backend)
    assert status == 0
    reports = text.split("\nright?\n")[1:]
    rest = [name for name in usual() if name not in set(QUICK) - QUICKLY]
    assert len(reports) == len(rest) + 1
    # Each report says where it was killed, and answers first.
    for name, report in zip(rest, reports, strict=False):
        assert report.index("1 of 1 right") < report.index("fast?") < report.index("verdict")
        assert "clip_loss 24 x 16: 1 ms" in report
        assert [n for n in rest if f"{n:12} unfinished" in report] == [name]


def killed_worker(folder: Path, backend: str) -> None:
    """In one call, which goes on with the cells that are left in a new process."""
    status, _ = rehearse("worker", folder, backend)
    # That has none: it waits for the next call.
    assert status == 1 and merged(folder)["missing"] == ["devices"]
    one = folder / "out" / MERGED
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir()
    status, _ = rehearse("nothing", elsewhere, backend, "--resume", str(one))
    # The build's result does not travel in the JSON, nor is it needed: all is done.
    assert status == 0 and not (elsewhere / "done").exists()
    assert merged(elsewhere)["verdict"] == PASS


def rehearse_both(folder: Path, backend: str) -> None:
    one, two = folder / "one", folder / "two"
    one.mkdir()
    two.mkdir()
    killed_whole(one, backend)
    killed_worker(two, backend)
    assert cells(one) == cells(two) and set(cells(one).values()) == {1}
    assert {name.split(":")[0] for name in cells(one)} == set(usual()) - {
        "environment",
        "build",
        "devices",
    }
    parts = merged(one)["sections"]
    verdicts = {part["verdict"] for name, part in parts.items() if name != "devices"}
    assert verdicts == {PASS} and parts["devices"]["verdict"] == SKIPPED
    assert not any(part["left"] or part["later"] for part in parts.values())


@pytest.mark.gates
def test_rehearsal(tmp_path: Path) -> None:
    rehearse_both(tmp_path, "reference")


@pytest.mark.gates
def test_rehearsal_in_the_interpreter(tmp_path: Path) -> None:
    """The Triton backend's kernels, in every section."""
    rehearse_both(tmp_path, "triton")
