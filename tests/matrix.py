"""The tests as other machines would run them: threads, BLAS paths, SIMD levels, orders.

python tests/matrix.py                               the numeric tests in every setting
python tests/matrix.py --list                        the settings
python tests/matrix.py --only "passes avx2" tests    the whole test command in one of them

Other arguments go to pytest. The exit status is 1 if the tests fail in any setting.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from contrastile import native

ROOT = Path(__file__).parents[1]
# Where a rounding, a tile or a thread decides: no sources, no packages, no emulated machine.
NUMERIC = [
    f"tests/test_{name}.py"
    for name in (
        "autograd",
        "edges",
        "error_rule",
        "extremes",
        "forms",
        "gather",
        "kept_dots",
        "losses",
        "memory",
        "modules",
        "native",
        "native_math",
        "op_autograd",
        "properties",
        "ranks",
        "self_mode",
        "stats",
        "surroundings",
    )
]


@dataclass(frozen=True)
class Setting:
    """What the tests are run with."""

    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


# MKL multiplies for torch, OpenBLAS for Triton's interpreter, oneDNN in half precision.
SETTINGS = {
    "as it is": Setting(),
    "1 thread": Setting(("--threads", "1")),
    "2 threads": Setting(("--threads", "2")),
    "4 threads": Setting(("--threads", "4")),
    "ATen default": Setting(environment={"ATEN_CPU_CAPABILITY": "default"}),
    "ATen avx2": Setting(environment={"ATEN_CPU_CAPABILITY": "avx2"}),
    "MKL AVX2": Setting(environment={"MKL_ENABLE_INSTRUCTIONS": "AVX2"}),
    "MKL compatible": Setting(environment={"MKL_CBWR": "COMPATIBLE"}),
    "MKL compatible AVX2": Setting(environment={"MKL_CBWR": "AVX2"}),
    "oneDNN AVX2": Setting(environment={"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "OpenBLAS Haswell": Setting(environment={"OPENBLAS_CORETYPE": "Haswell"}),
    "OpenBLAS Prescott": Setting(environment={"OPENBLAS_CORETYPE": "Prescott"}),
    "passes avx2": Setting(("--simd-level", "avx2")),
    "passes baseline": Setting(("--simd-level", "baseline")),
    "nothing compiled": Setting(("--simd-level", "none")),
    "all the oldest": Setting(
        ("--simd-level", "baseline"),
        {
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "COMPATIBLE",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "OPENBLAS_CORETYPE": "Prescott",
        },
    ),
    "reversed": Setting(("--order", "reversed")),
    "shuffled 1": Setting(("--order", "1")),
    "shuffled 2": Setting(("--order", "2")),
}


def levels() -> list[str]:
    """What ``--simd-level`` can be here."""
    module = native.load()
    return ["none", *(module.levels() if module else ())]


def run(name: str, arguments: list[str]) -> str:
    """One line of the table; it ends in pytest's own summary."""
    setting = SETTINGS[name]
    if "--simd-level" in setting.options and setting.options[1] not in levels():
        return f"left out  {name}: not built, or not on this processor"
    command = [sys.executable, "-m", "pytest", "-q", *setting.options, *arguments]
    start = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **setting.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - start
    if done.returncode:
        print(done.stdout[-20_000:], done.stderr[-2000:], flush=True)
    summary = done.stdout.strip().rpartition("\n")[2] or f"status {done.returncode}"
    verdict = "FAILED" if done.returncode else "passed"
    return f"{verdict}    {name:20} {seconds:6.0f} s  {summary}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="print the settings and stop")
    parser.add_argument("--only", action="append", metavar="NAME", choices=SETTINGS)
    options, arguments = parser.parse_known_args()
    if options.list:
        print("\n".join(SETTINGS))
        return 0
    table = []
    for name in options.only or SETTINGS:
        table.append(run(name, arguments or NUMERIC))
        print(table[-1], flush=True)
    print(f"\n{len(table)} settings", *table, sep="\n")
    return int(any(line.startswith("FAILED") for line in table))


if __name__ == "__main__":
    sys.exit(main())
