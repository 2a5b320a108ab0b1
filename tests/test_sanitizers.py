"""Memory and undefined behaviour: the emulated CUDA kernels and the CPU's passes, sanitized."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import emulated
import pybind11
import pytest

pytestmark = pytest.mark.gates
DRIVERS = Path(__file__).parent / "sanitizers"
PASSES = emulated.ROOT / "csrc"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
COMMON = ["-std=c++17", "-O0", "-g1", "-fPIC", "-fvisibility=hidden", "-fopenmp"]
# As setup.py compiles the passes, but for the optimisation.
COMMON += ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
COMMON += ["-DCONTRASTILE_X86_LEVELS=1", '-DCONTRASTILE_NO_CUDA="sanitizers"']
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]
LEVELS = {"level_avx2.cpp": AVX2, "level_avx512.cpp": AVX512}
# pybind11's templates take most of the time and touch none of the memory in question.
PLAIN = ("bindings.cpp", "bindings_passes.cpp")


@pytest.fixture(scope="module")
def preloaded() -> str:
    """What Python, which knows nothing of sanitizers, has to load first."""
    try:
        compiler = emulated.compiler()
    except AssertionError as missing:
        pytest.skip(str(missing))
    # Without libstdc++ beside it, AddressSanitizer does not find the function that throws.
    found = [_of_compiler(compiler, name) for name in ("libasan.so", "libstdc++.so.6")]
    for path in [*found, _of_compiler(compiler, "libubsan.so")]:
        if not path.is_absolute():
            pytest.skip(f"{compiler} has no {path}")
    return " ".join(map(str, found))


def _of_compiler(compiler: str, name: str) -> Path:
    command = [compiler, f"-print-file-name={name}"]
    return Path(subprocess.run(command, capture_output=True, text=True).stdout.strip())


@pytest.fixture(scope="module")
def kernels(preloaded: str) -> Path:
    """The face is the one that the kernels' own tests have."""
    flags = ["-O0", "-g1", *SANITIZERS]
    own = emulated.compiled(DRIVERS / "kernels.cpp", flags=flags)
    # First, so that of functions which both have, the sanitized are linked.
    return linked("emulated", [own, *emulated.face()])


@pytest.fixture(scope="module")
def passes(preloaded: str) -> Path:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip(f"the passes' flags here are those of x86, not of {platform.machine()}")
    # Sanitized first, so that theirs are linked of the functions that others have too.
    sources = sorted(PASSES.glob("*.cpp"), key=lambda path: path.name in PLAIN)
    return linked("_C", [compiled_pass(source) for source in sources])


def compiled_pass(source: Path) -> Path:
    flags = [*COMMON, *LEVELS.get(source.name, [])]
    flags += [] if source.name in PLAIN else SANITIZERS
    flags += [f"-I{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]
    digest = hashlib.sha256(" ".join([*flags, emulated.compiler()]).encode())
    for path in [source, *sorted(PASSES.glob("*.h"))]:
        digest.update(path.read_bytes())
    out = emulated.folder() / f"pass-{source.stem}-{digest.hexdigest()[:20]}.o"
    with emulated.locked(out.stem):
        if not out.exists():
            partial = out.with_suffix(".partial")
            emulated.run([emulated.compiler(), *flags, "-c", source, "-o", partial])
            partial.rename(out)
    return out


def linked(name: str, objects: Sequence[Path]) -> Path:
    """A module of Python's; loaded only by a process of its own."""
    digest = hashlib.sha256(" ".join(path.name for path in objects).encode()).hexdigest()[:20]
    out = emulated.folder() / f"sanitized-{digest}" / f"{name}.so"
    with emulated.locked(out.parent.name):
        if not out.exists():
            out.parent.mkdir(exist_ok=True)
            partial = out.with_suffix(".partial")
            command = [emulated.compiler(), "-shared", "-fopenmp", *SANITIZERS]
            emulated.run([*command, "-o", partial, *objects])
            partial.rename(out)
    return out


def run(driver: str, library: Path, kind: str, preloaded: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "LD_PRELOAD": preloaded,
        # Fibers change stacks; Python keeps what it has until the end.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(DRIVERS / driver), str(library), kind]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def assert_clean(result: subprocess.CompletedProcess[str]) -> None:
    words = f"{result.stdout[-500:]}\n{result.stderr[:8000]}"
    assert result.returncode == 0 and "no complaints" in result.stdout, words
    assert "runtime error" not in result.stderr and "AddressSanitizer" not in result.stderr, words


def assert_noticed(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode != 0 and "heap-buffer-overflow" in result.stderr, result.stderr[:8000]


def test_kernels(kernels: Path, preloaded: str) -> None:
    assert_clean(run("run_kernels.py", kernels, "whole", preloaded))


def test_a_kernels_write_beyond_is_noticed(kernels: Path, preloaded: str) -> None:
    assert_noticed(run("run_kernels.py", kernels, "short", preloaded))


def test_passes(passes: Path, preloaded: str) -> None:
    assert_clean(run("run_passes.py", passes, "whole", preloaded))


def test_a_passs_read_beyond_is_noticed(passes: Path, preloaded: str) -> None:
    assert_noticed(run("run_passes.py", passes, "short", preloaded))
