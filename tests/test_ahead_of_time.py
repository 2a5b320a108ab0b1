"""Every shipped kernel compiled for every supported GPU, and held to the rules of benches/gates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from contrastile.backends.triton.launch import VARIABLE, Purpose, shipped

# Together they take every configuration there is.
LOSSES = [
    "clip_loss",
    "nt_xent",
    "multi_positive_nce",
    "siglip_loss",
    "siglip_loss with ids",
    "siglip_loss, kept",
]
ARCHS = ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"]


def gates(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: here kernels are interpreted."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "contrastile.benches.gates", *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# gfx90a has the configurations and the instructions of gfx942.
@pytest.mark.parametrize("arch", [*ARCHS, "gfx90a"])
def test_half_precision(arch: str) -> None:
    done = gates("--arch", arch, "--dtype", "bf16", "--loss", *LOSSES)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_other_dtypes(arch: str, dtype: str) -> None:
    done = gates("--arch", arch, "--dtype", dtype, "--loss", "clip_loss", "siglip_loss")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_specialised_launches() -> None:
    """Those on trial, with the Triton that they are for."""
    arguments = ("--arch", "sm_90", "--dtype", "bf16", "--specialised", "--loss")
    done = gates(*arguments, "clip_loss", "nt_xent", "siglip_loss")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_a_broken_rule_is_reported(tmp_path: Path) -> None:
    """The gates can fail: eight stages do not fit in shared memory."""
    launch = replace(shipped("sm_90")["half", Purpose.REDUCE], stages=8)
    file = tmp_path / "deep.json"
    file.write_text(json.dumps({"arch": "sm_90", "half": {"reduce": asdict(launch)}}))
    arguments = ("--arch", "sm_90", "--dtype", "bf16", "--loss", "info_nce")
    done = gates(*arguments, **{VARIABLE: str(file)})
    assert done.returncode == 1, done.stderr[-2000:]
    assert "of shared memory" in done.stdout


def test_interpreted_kernels_are_refused() -> None:
    done = gates(TRITON_INTERPRET="1")
    assert done.returncode == 2 and "TRITON_INTERPRET" in done.stderr
