"""The tests as other machines would run them: threads, BLAS paths, SIMD levels, orders.

python tests/matrix.py                                       every setting
python tests/matrix.py --list                                their names
python tests/matrix.py --only "passes avx2" --tests tests    the whole test command in one of them

Other arguments go to pytest. The exit status is 1 if the tests fail in any setting.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contrastile import native

ROOT = Path(__file__).parents[1]


def files(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/test_{name}.py" for name in names)


# Where a rounding, a tile or a thread decides.
COMPILED = files(
    *("autograd", "edges", "error_rule", "gather", "losses", "memory", "modules", "native"),
    *("native_math", "op_autograd", "properties", "ranks", "self_mode", "stats", "surroundings"),
)
COMPILED += ("-k", "not triton")
# The interpreter multiplies with numpy's BLAS.
INTERPRETED = files("extremes", "forms", "kept_dots", "triton")
# What a process keeps: caches, warnings that come once, threads, modules of torch.
STATE = files(
    *("advice", "compile", "doctor", "export", "launches", "memory", "modules", "native_calls"),
    *("queue", "registered_ops", "start", "storage", "sweep_tracing", "threads", "tracing"),
    *("transforms", "unit_length", "validation", "warm_up"),
)
EVERYTHING = ("tests",)


@dataclass(frozen=True)
class Setting:
    """What is run, and with what."""

    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    tests: tuple[str, ...] = COMPILED


OLDEST = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Prescott",
}
SETTINGS = {
    "2 threads": Setting(("--threads", "2")),
    "4 threads": Setting(("--threads", "4")),
    "16 threads": Setting(("--threads", "16")),
    "ATen default": Setting(environment={"ATEN_CPU_CAPABILITY": "default"}),
    "ATen avx2": Setting(environment={"ATEN_CPU_CAPABILITY": "avx2"}),
    "MKL AVX2": Setting(environment={"MKL_ENABLE_INSTRUCTIONS": "AVX2"}),
    "MKL compatible": Setting(environment={"MKL_CBWR": "COMPATIBLE"}),
    "MKL compatible AVX2": Setting(environment={"MKL_CBWR": "AVX2"}),
    "oneDNN AVX2": Setting(environment={"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "passes avx2": Setting(("--simd-level", "avx2")),
    "passes baseline": Setting(("--simd-level", "baseline")),
    "nothing compiled": Setting(("--simd-level", "none")),
    "all the oldest": Setting(("--simd-level", "baseline"), OLDEST),
    "interpreted, Haswell": Setting((), {"OPENBLAS_CORETYPE": "Haswell"}, INTERPRETED),
    "interpreted, oldest": Setting((), OLDEST, INTERPRETED),
    "reversed": Setting(("--order", "reversed"), tests=EVERYTHING),
    "shuffled": Setting(("--order", "1"), tests=EVERYTHING),
    "shuffled state": Setting(("--order", "1"), tests=STATE),
}


def levels() -> list[str]:
    """What ``--simd-level`` can be here."""
    module = native.load()
    return ["none", *(module.levels() if module else ())]


def run(name: str, tests: Sequence[str], arguments: Sequence[str]) -> str:
    """One line of the table; it ends in pytest's own summary."""
    setting = SETTINGS[name]
    if "--simd-level" in setting.options and setting.options[1] not in levels():
        return f"left out  {name}: not built, or not on this processor"
    own = [*setting.options, *(tests or setting.tests)]
    command = [sys.executable, "-m", "pytest", "-q", *own, *arguments]
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
    parser.add_argument("--tests", nargs="+", default=[], help="instead of those of the setting")
    options, arguments = parser.parse_known_args()
    if options.list:
        print("\n".join(SETTINGS))
        return 0
    table = []
    for name in options.only or SETTINGS:
        table.append(run(name, options.tests, arguments))
        print(table[-1], flush=True)
    print(f"\n{len(table)} settings", *table, sep="\n")
    return int(any(line.startswith("FAILED") for line in table))


if __name__ == "__main__":
    sys.exit(main())
