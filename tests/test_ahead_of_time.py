"""Every shipped kernel compiled for every supported GPU, and held to the rules of kernels/gates.py.

The test command takes one architecture, the tier of gates all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from contrastile.backends.triton.launch import VARIABLE, Purpose, shipped

# Together, and with info_nce where tiles divide the rows, they take every configuration there is.
LOSSES = [
    "clip_loss",
    "nt_xent",
    "multi_positive_nce",
    "siglip_loss",
    "siglip_loss with ids",
    "siglip_loss of rows",
    "siglip_loss of rows with ids",
    "siglip_loss of rows, kept",
    "smooth ranks",
]
# Rows that every tile divides.
EVEN = 2304
ARCHS = ["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"]


def gates(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: here kernels are interpreted."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "contrastile.benches.kernels.gates", *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_architecture() -> None:
    """Each kernel, in each form that it has."""
    done = gates("--arch", "sm_90", "--dtype", "bf16", "--loss", "clip_loss", "siglip_loss")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    seen = {tuple(line.split()[2:5]) for line in done.stdout.splitlines()[:-1]}
    assert seen == {
        ("clip_loss", name, form) for name in ("reduce", "weigh") for form in ("fixed", "general")
    } | {("siglip_loss", "weigh", "fixed")}


# gfx90a has the configurations and the instructions of gfx942; sm_86 and sm_89 take the launches of
# sm_120, which has as little shared memory.
@pytest.mark.gates
@pytest.mark.parametrize("arch", [*ARCHS, "sm_86", "sm_89", "gfx90a"])
def test_half_precision(arch: str) -> None:
    done = gates("--arch", arch, "--dtype", "bf16", "--loss", *LOSSES)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.gates
@pytest.mark.parametrize("arch", [*ARCHS, "sm_86", "sm_89", "gfx90a"])
def test_sweeps(arch: str) -> None:
    """Numbers of planes are fp32, whatever embeddings are in."""
    sweeps = "sweep", "sweep of one set", "sweep of seven planes"
    done = gates("--arch", arch, "--dtype", "bf16", "--loss", *sweeps)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    kernels = {line.split(arch)[1].split("registers")[0] for line in done.stdout.splitlines()[:-1]}
    names = "reduce", "weigh", "scale_block", "map_block", "map_gradients", "fold"
    assert all(any(name in kernel for kernel in kernels) for name in names)


@pytest.mark.gates
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_other_dtypes(arch: str, dtype: str) -> None:
    done = gates("--arch", arch, "--dtype", dtype, "--loss", "clip_loss", "siglip_loss")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.gates
def test_sizes_that_tiles_divide() -> None:
    """The kernels of most batches, which ask of no pair whether it is there."""
    arguments = ("--arch", "sm_90", "--dtype", "bf16", "--rows", str(EVEN), "--size", "64", "1024")
    done = gates(*arguments, "--loss", "clip_loss", "info_nce", "siglip_loss")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    lines = done.stdout.splitlines()[:-1]
    assert lines and all(" even " in line for line in lines)
    assert all(any(f"D {size} " in line for line in lines) for size in (64, 1024))


@pytest.mark.gates
def test_small_embeddings_of_a_shallow_launch() -> None:
    """Of sm_100, where a loop of one step is pipelined as nothing else is."""
    arguments = ("--arch", "sm_100", "--dtype", "bf16", "--size", "64")
    done = gates(*arguments, "--loss", "clip_loss", "siglip_loss with ids")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.gates
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942", "gfx90a"])
def test_tf32_once_torch_allows_it(arch: str) -> None:
    """But not on gfx90a, for which Triton refuses to compile it."""
    done = gates("--arch", arch, "--dtype", "tf32", "--loss", "siglip_loss")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.gates
def test_specialised_launches() -> None:
    """Those on trial, with the Triton that they are for."""
    arguments = ("--arch", "sm_90", "--dtype", "bf16", "--specialised", "--loss")
    done = gates(*arguments, "clip_loss", "nt_xent", "siglip_loss")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    done = gates(*arguments, "info_nce", "--rows", str(EVEN), "--size", "64", "512")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("128x256x32") == done.stdout.count("128x256x64") == 2


@pytest.mark.gates
def test_a_broken_rule_is_reported(tmp_path: Path) -> None:
    """The gates can fail: eight stages do not fit in shared memory."""
    launch = replace(shipped("sm_90")["half", Purpose.REDUCE], stages=8)
    file = tmp_path / "deep.json"
    file.write_text(json.dumps({"arch": "sm_90", "half": {"reduce": asdict(launch)}}))
    arguments = ("--arch", "sm_90", "--dtype", "bf16", "--loss", "clip_loss")
    done = gates(*arguments, **{VARIABLE: str(file)})
    assert done.returncode == 1, done.stderr[-2000:]
    assert "of shared memory" in done.stdout


def test_interpreted_kernels_are_refused() -> None:
    done = gates(TRITON_INTERPRET="1")
    assert done.returncode == 2 and "TRITON_INTERPRET" in done.stderr


def test_a_compiled_kernel_is_kept_by_the_source_of_its_functions() -> None:
    """Triton finds what it has compiled by a form's text; it knows of no function in it."""
    program = """
from contrastile.backends.triton.encode import form, maps, predicates
pairs = ((0, 0), (3,))
text = repr(form(None, True, pairs, (pairs,)))
functions = maps.lasting_power, maps.power, predicates.index, predicates.negation
print([text.count(function.cache_key) for function in functions])
text = repr(form(0, False, (), ()))
functions = maps.softplus, maps.sigmoid, maps.softplus_and_sigmoid
print([text.count(function.cache_key) for function in functions])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[1, 1, 2, 2]\n[1, 1, 1]\n", done.stderr[-2000:]
