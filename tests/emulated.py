"""The CUDA kernels, compiled by g++ onto an emulation of the machine, as a module."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pybind11

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "csrc" / "cuda"
EMULATION = Path(__file__).parent / "emulation"
# -O1 compiles in a third of -O2's time and runs as fast: the time goes into switching fibers.
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden"]
FLAGS += ["-DCONTRASTILE_LEVEL=device", "-DCONTRASTILE_SM90"]


def compiler() -> str:
    """The C++ compiler, as the extension is built with it."""
    named = os.environ.get("CXX") or str(sysconfig.get_config_var("CXX") or "g++").split()[0]
    found = shutil.which(named)
    assert found is not None, f"the kernels' tests need a C++ compiler, {named} was not found"
    return found


def run(command: Sequence[str | Path]) -> None:
    """Raises with the compiler's own words."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]


def folder() -> Path:
    """Where compiled parts are kept between runs; theirs are named by what they are made from."""
    path = Path(tempfile.gettempdir()) / f"contrastile-emulated-{os.getuid()}"
    path.mkdir(exist_ok=True)
    return path


def compiled(source: Path, kernels: Path = KERNELS, flags: Sequence[str] = ()) -> Path:
    """The object file of ``source``; it is compiled again when anything it may read has changed."""
    options = [*FLAGS, *flags]
    digest = hashlib.sha256(" ".join([*options, source.name, compiler()]).encode())
    headers = [*kernels.glob("*"), *kernels.parent.glob("*.h"), *EMULATION.glob("*"), source]
    for path in sorted(headers):
        digest.update(path.read_bytes())
    out = folder() / f"{source.stem}-{digest.hexdigest()[:20]}.o"
    with locked(out.stem):
        if not out.exists():
            partial = out.with_suffix(".partial")
            includes = [kernels, EMULATION, pybind11.get_include(), sysconfig.get_path("include")]
            options += [f"-I{path}" for path in includes]
            run([compiler(), *options, "-c", source, "-o", partial])
            partial.rename(out)
    return out


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One worker compiles, the others wait for what it made."""
    with (folder() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def linked(objects: Sequence[Path], flags: Sequence[str] = ()) -> ModuleType:
    """The module ``emulated`` made of these object files."""
    names = " ".join([*(path.name for path in objects), *flags])
    out = folder() / hashlib.sha256(names.encode()).hexdigest()[:20] / "emulated.so"
    with locked(out.parent.name):
        if not out.exists():
            out.parent.mkdir(exist_ok=True)
            partial = out.with_suffix(".partial")
            run([compiler(), "-shared", *flags, "-o", partial, *objects])
            partial.rename(out)
    # pybind11 returns the module it made before for a name it knows.
    spec = importlib.util.spec_from_file_location(f"{out.parent.name}.emulated", out)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The parts that Python calls, without any kernel.
FACE = [EMULATION / "module.cpp", KERNELS / "bindings.cpp", KERNELS / "bind_vectors.cpp"]


def face() -> list[Path]:
    """Compiled."""
    return [compiled(part) for part in FACE]


def load() -> ModuleType:
    """All kernels of csrc/cuda; what has to be compiled is compiled side by side."""
    parts = [EMULATION / "kernels.cpp", KERNELS / "launcher.cpp", *FACE]
    with ThreadPoolExecutor() as pool:
        return linked(list(pool.map(compiled, parts)))
