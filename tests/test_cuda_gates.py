"""Machine code of the CUDA kernels: what nvcc made of them for each architecture."""

from __future__ import annotations

import importlib.util
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cuda_build
import pytest
from contrastile.benches.kernels import cuda_gates
from contrastile.benches.kernels.cuda_gates import Kernel

KERNELS = cuda_build.ROOT / "csrc" / "cuda"

needs_disassembler = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the disassembler comes with Triton"
)


@pytest.mark.gates
@needs_disassembler
def test_the_built_kernels() -> None:
    kernels, broken = cuda_gates.check(cuda_build.extension())
    assert broken == []
    archs = cuda_build.ARCHS.split(";")
    # 9 kernels for each of three elements; with wgmma 18 for each of two.
    assert len(kernels) == 27 * len(archs) + 36


@pytest.mark.gates
@needs_disassembler
def test_architectures_beyond_hopper(tmp_path: Path) -> None:
    """sm_80's kernels are what later architectures run; here as sm_100a compiles them."""
    out = tmp_path / "sm80_bf16.o"
    flags = ["-std=c++17", "-O3", "-DCONTRASTILE_LEVEL=device", "-c", "-o", str(out)]
    target = "-gencode=arch=compute_100a,code=sm_100a"
    subprocess.run([cuda_build.nvcc(), *flags, target, str(KERNELS / "sm80_bf16.cu")], check=True)
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
