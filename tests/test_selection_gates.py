"""The kernels of selections compiled for every supported GPU, and held to their rules.

The test command takes one architecture, the tier of gates all.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ARCHS = ("sm_80", "sm_90", "sm_100", "gfx90a", "gfx942")


def check(*arguments: str) -> list[str]:
    """The lines of kernels, in a process of its own: here kernels are interpreted."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    module = "contrastile.benches.kernels.selection_gates"
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=inherited, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout.splitlines()[:-1]


def test_one_architecture() -> None:
    lines = check("--arch", "sm_90", "--dtype", "bf16")
    assert {line.split()[2] for line in lines} == {"top_k", "group_max"}


@pytest.mark.gates
@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture(arch: str) -> None:
    assert len(check("--arch", arch, "--dtype", "bf16", "fp32", "fp64")) == 24
