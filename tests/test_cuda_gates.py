"""Machine code of the CUDA kernels: what nvcc made of them for each architecture."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from contrastile import native
from contrastile.benches import cuda_gates
from contrastile.benches.cuda_gates import Kernel

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "csrc" / "cuda"

needs_disassembler = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the disassembler comes with Triton"
)


def nvcc() -> str:
    """The compiler of a whole toolkit; without one there is nothing to look at."""
    found = shutil.which("nvcc")
    roots = [Path(found).resolve().parents[1]] if found else []
    roots += [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    for root in [*roots, Path("/usr/local/cuda")]:
        if (root / "bin/nvcc").exists() and (root / "include/cuda_runtime.h").exists():
            return str(root / "bin/nvcc")
    pytest.skip("no CUDA toolkit here: kernels are compiled where there is one")


@needs_disassembler
def test_the_built_kernels() -> None:
    module = native.load()
    if module is None or not native.cuda_archs():
        pytest.skip(f"no CUDA kernels in this build: {native.why_no_cuda()}")
    kernels, broken = cuda_gates.check(Path(str(module.__file__)))
    assert broken == []
    archs = native.cuda_archs().split()
    # 9 kernels for each of three elements; with wgmma 18 for each of two.
    assert len(kernels) == 27 * len(archs) + 36 * ("90a" in archs)


@needs_disassembler
def test_architectures_beyond_hopper(tmp_path: Path) -> None:
    """sm_80's kernels are what later architectures run; here as sm_100a compiles them."""
    out = tmp_path / "sm80_bf16.o"
    flags = ["-std=c++17", "-O3", "-DCONTRASTILE_LEVEL=device", "-c", "-o", str(out)]
    target = "-gencode=arch=compute_100a,code=sm_100a"
    subprocess.run([nvcc(), *flags, target, str(KERNELS / "sm80_bf16.cu")], check=True)
    kernels, broken = cuda_gates.check(out)
    assert broken == []
    assert {kernel.arch for kernel in kernels} == {"sm_100a"} and len(kernels) == 9


GOOD = Kernel(
    "sm_90a", "sm90", "weigh", "bf16", "fixed", (True,), 168, 0,
    Counter({"HGMMA": 8, "MUFU.EX2": 192, "SHFL": 164}),
)  # fmt: skip
GENERAL = Counter({"HGMMA": 8, "MUFU.EX2": 384, "SHFL": 260})
TERM = Counter({"HGMMA": 8, "SHFL": 388})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"stack": 8}, "8 bytes of stack"),
        ({"registers": 160}, "160 registers, setmaxnreg counts on 168"),
        (
            {"family": "sm80", "registers": 257, "counts": GOOD.counts + Counter({"HMMA": 1})},
            "257 registers for 256 threads",
        ),
        (
            {"counts": GOOD.counts + Counter({"CGAERRBAR": 2})},
            "2 fences for the whole GPU, expected one at the start",
        ),
        ({"counts": GOOD.counts - Counter({"HGMMA": 8})}, "no HGMMA"),
        ({"counts": GOOD.counts + Counter({"HMMA": 1})}, "HMMA beside HGMMA"),
        ({"counts": GOOD.counts + Counter({"MUFU.EX2": 192})}, "384 MUFU.EX2, expected 192"),
        ({"counts": GOOD.counts - Counter({"SHFL": 1})}, "163 SHFL, expected 164"),
        ({"form": "general", "counts": GENERAL}, None),
        ({"form": "general", "counts": GENERAL - Counter({"SHFL": 1})}, "259 SHFL, expected 260"),
        ({"form": "term", "counts": TERM}, None),
        (
            {"form": "term", "counts": TERM + Counter({"MUFU.EX2": 1})},
            "1 MUFU.EX2, expected 0",
        ),
    ],
)
def test_a_broken_rule_is_reported(change: dict[str, object], words: str | None) -> None:
    broken = list(cuda_gates.rules(replace(GOOD, **change)))  # type: ignore[arg-type]
    assert broken == ([] if words is None else [words])


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CONTRASTILE_CUDA", "yes", "CONTRASTILE_CUDA: expected 0, 1 or auto, got 'yes'"),
        ("CONTRASTILE_CUDA_ARCHS", "70", "CONTRASTILE_CUDA_ARCHS: expected such as 80;90a"),
        ("CONTRASTILE_CUDA_ARCHS", "ninety", "CONTRASTILE_CUDA_ARCHS: expected such as 80;90a"),
    ],
)
def test_bad_settings_stop_the_build(variable: str, value: str, words: str, tmp_path: Path) -> None:
    nvcc()
    command = [sys.executable, "setup.py", "-q", "--name"]
    environment = {**os.environ, variable: value}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and words in done.stderr
