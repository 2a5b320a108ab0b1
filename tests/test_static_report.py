"""The static report: kernels compiled in a process of their own, for a GPU that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

MODULE = "contrastile.benches.static_report"
NOTE = "PREDICTIONS OF A STATIC MODEL, NOT MEASUREMENTS"


def report(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Triton decides when its kernels are imported whether they are interpreted.
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", MODULE, *arguments],
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_report(tmp_path: Path) -> None:
    """Every table says what its figures are; the figures of the file are those of the model."""
    out = tmp_path / "report.json"
    done = report("--arch", "sm_90", "--dtype", "bf16", "--loss", "clip_loss", "--out", str(out))
    assert done.returncode == 0, done.stderr
    for table in ("kernels as compiled", "cycles of a tile", "H100 SXM bf16", "H200 bf16"):
        assert table in done.stdout
    assert done.stdout.count(NOTE) == 4

    record = json.loads(out.read_text())
    assert record["note"] == NOTE
    kernels = {row["purpose"]: row for row in record["kernels"]}
    assert {"reduce", "weigh"} <= kernels.keys()
    for row in kernels.values():
        assert row["MUFU"] > 0 and row["MMA"] > 0 and row["regs"] <= 255
    for row in record["tiles"]:
        assert row["tile"] >= max(row["main"], row["epilogue"]) > 0
        assert row["product"] <= row["main"]
    assert {(row["of"], row["N"]) for row in record["losses"]} >= {
        ("H200", 32768),
        ("H100 SXM", 4096),
    }
    aimed = [row for row in record["losses"] if row["target ms"] is not None]
    assert len(aimed) == 8
    for row in aimed:
        assert row["of target"] == pytest.approx(row["total ms"] / row["target ms"])
        parts = row["reduce ms"] + row["weights ms"] + row["GEMMs ms"]
        assert row["total ms"] == pytest.approx(parts + 0.06)


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_interpreted_kernels_are_refused() -> None:
    done = report(TRITON_INTERPRET="1")
    assert done.returncode == 2 and "TRITON_INTERPRET" in done.stderr
