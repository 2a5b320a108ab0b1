"""The static report: kernels compiled in a process of their own, for a GPU that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

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
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_purposes_are_those_that_the_backend_launches_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All there are, each seen in what its kernel is given."""
    from contrastile.backends.triton import context
    from contrastile.backends.triton.launch import Launch, Purpose
    from contrastile.benches.problems import steps
    from contrastile.benches.static_report import purpose_of

    launched: list[Purpose] = []
    launch = context.Context.launch

    def note(self: context.Context, purpose: Purpose) -> Launch:
        launched.append(purpose)
        return launch(self, purpose)

    def compare(self: context.Context, kernel: Any, *_: object, **constants: object) -> None:
        assert purpose_of(kernel.fn.__name__, constants) is launched[-1]

    monkeypatch.setattr(context.Context, "launch", note)
    monkeypatch.setattr(context.Context, "over_tiles", compare)
    for small in (0, 2**22):
        monkeypatch.setattr(context, "SMALL", small)
        for name, step in steps(torch.bfloat16, rows=24, size=16).items():
            # Those have a size of their own, 2,000 rows.
            if not name.endswith("small"):
                step()
    assert set(launched) == set(Purpose)


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
@pytest.mark.parametrize("arch", ["sm_100", "sm_120"])
def test_pair_sums_are_found_as_they_are_launched(arch: str, tmp_path: Path) -> None:
    """There the weights of pair sums have a launch of their own."""
    out = tmp_path / "report.json"
    done = report("--arch", arch, "--dtype", "bf16", "--loss", "siglip_loss", "--out", str(out))
    assert done.returncode == 0, done.stderr
    purposes = {row["purpose"] for row in json.loads(out.read_text())["kernels"]}
    assert purposes == {"reduce pair sums", "weigh pair sums"}


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_kept_dot_products_and_the_losses_that_are_predicted(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    losses = ("clip_loss, kept", "siglip_loss", "info_nce")
    done = report("--arch", "sm_90", "--dtype", "bf16", "--loss", *losses, "--out", str(out))
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    kept = [row for row in record["kernels"] if row["loss"] == "clip_loss, kept"]
    assert {row["purpose"] for row in kept} == {
        "reduce, keep dot products",
        "reduce, general form",
        "weigh kept dot products",
    }
    for row in record["tiles"]:
        assert (row["product"] == 0) == (row["purpose"] == "weigh kept dot products")
    assert {row["loss"] for row in record["losses"]} == {"siglip_loss", "info_nce"}
    (aimed,) = [row for row in record["losses"] if row["target ms"] is not None]
    assert [aimed[k] for k in ("of", "loss", "N", "D")] == ["H200", "siglip_loss", 65536, 768]
    # Two passes and two products of 2 N^2 D flop each.
    flop = 4 * 2 * 65536**2 * 768
    assert aimed["total TFLOP/s"] == pytest.approx(flop / aimed["total ms"] / 1e9)


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_interpreted_kernels_are_refused() -> None:
    done = report(TRITON_INTERPRET="1")
    assert done.returncode == 2 and "TRITON_INTERPRET" in done.stderr
