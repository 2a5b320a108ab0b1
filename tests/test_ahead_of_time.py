"""Every shipped kernel compiled for every supported GPU, and held to the rules of benches/gates."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Together they take every configuration there is.
LOSSES = ["clip_loss", "nt_xent", "multi_positive_nce", "siglip_loss", "siglip_loss with ids"]
ARCHS = ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"]


def gates(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: here kernels are interpreted."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "contrastile.benches.gates", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("arch", ARCHS)
def test_half_precision(arch: str) -> None:
    done = gates("--arch", arch, "--dtype", "bf16", "--loss", *LOSSES)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_other_dtypes(arch: str, dtype: str) -> None:
    done = gates("--arch", arch, "--dtype", dtype, "--loss", "clip_loss", "siglip_loss")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_a_broken_rule_is_reported() -> None:
    """The gates can fail: tiles of 256 x 256 do not fit."""
    code = (
        "import contrastile.backends.triton.launch as launch\n"
        "from contrastile.benches import gates\n"
        "launch.WIDE = launch.Launch(256, 256, 64, 8, 4, descriptors=True)\n"
        "launch.HALF_BY_ARCH['sm_90'] = {p: launch.WIDE for p in launch.Purpose}\n"
        "raise SystemExit(gates.main(['--arch', 'sm_90', '--dtype', 'bf16', '--loss', 'info_nce']))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "of shared memory" in done.stdout or "spills" in done.stdout
