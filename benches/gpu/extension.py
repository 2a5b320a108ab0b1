"""The native extension with its CUDA kernels, built where the check runs: the section ``build``."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import contrastile
import torch

from .record import FAIL, PASS, ROOT, Outcome
from .settings import Settings
from .wheels import unpacked

BUILD, FOLDER, REASON, LOG = "build", "extension", "why-not.txt", "build.log"
# What setup.py reads; without pyproject.toml, which asks for a newer setuptools than it needs.
TREE = ("setup.py", "csrc", "python", "triton_kernels", "benches")
# Where setup.py looks besides the path.
NVCC = Path("/usr/local/cuda/bin/nvcc")
SHIM = "def get_include():\n    return {!r}\n"

Builder = Callable[[Path, str, float], str | None]


def build_section(settings: Settings, builder: Builder | None = None) -> Outcome:
    """Compiles for this machine alone; what follows runs in a process that finds the result."""
    place = settings.extension
    if place is None:
        return Outcome.skip("there is no folder to build in")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    reason = unable(settings)
    if reason is not None:
        (place / REASON).write_text(reason)
        return Outcome.skip(reason)
    arch = arch_of(*torch.cuda.get_device_capability(settings.device))
    with headers(place, settings.wheels) as where:
        error = (builder or build)(place, arch, settings.left)
    if error is not None:
        (place / REASON).write_text(f"the build failed: {error}")
        return Outcome(FAIL, {"arch": arch, "pybind11": where}, error)
    found = [str(path.relative_to(place)) for path in modules(place)]
    settings.row({"arch": arch, "pybind11": where, "built": found})
    return Outcome(PASS, {"arch": arch, "pybind11": where})


def unable(settings: Settings) -> str | None:
    """None, or what is missing for a build."""
    if not settings.on_gpu:
        return "CUDA kernels need a GPU"
    if torch.version.hip is not None:
        return "CUDA kernels need an NVIDIA GPU"
    if shutil.which("nvcc") is None and not NVCC.exists():
        return "nvcc was not found"
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "no C++ compiler was found"
    return None if find_spec("setuptools") else "setuptools is not installed"


def arch_of(major: int, minor: int) -> str:
    """As CONTRASTILE_CUDA_ARCHS has it; only 9.0's own instructions have kernels of their own."""
    return f"{major}{minor}" + ("a" if (major, minor) == (9, 0) else "")


@contextmanager
def headers(place: Path, wheels: Path | None) -> Iterator[str]:
    """Inside, pybind11 can be imported by a build: installed, of a wheel, or torch's own copy of
    its headers. Yields which.
    """
    if find_spec("pybind11"):
        yield "installed"
        return
    with unpacked(wheels):
        if find_spec("pybind11"):
            yield "of a wheel"
            return
    include = Path(torch.__file__).parent / "include"
    shim = place / "shim"
    shim.mkdir()
    (shim / "pybind11.py").write_text(SHIM.format(str(include)))
    yield "torch's headers"


def build(place: Path, arch: str, seconds: float) -> str | None:
    """None, or how the build ended instead."""
    tree = place / "tree"
    tree.mkdir()
    for name in TREE:
        (tree / name).symlink_to(ROOT / name)
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += ["--build-lib", str(place / "lib"), "--build-temp", str(place / "objects")]
    path = os.pathsep.join([*filter(None, sys.path), str(place / "shim")])
    wanted = {"CONTRASTILE_NATIVE": "1", "CONTRASTILE_CUDA": "1", "CONTRASTILE_CUDA_ARCHS": arch}
    env = {**os.environ, **wanted, "PYTHONPATH": path}
    error = run(command, tree, env, place / LOG, seconds)
    shutil.rmtree(place / "objects", ignore_errors=True)
    return error


def run(
    command: list[str], folder: Path, env: dict[str, str], log: Path, seconds: float
) -> str | None:
    """None, or the end of what the command said; it and all it started end in time."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            return f"not done in {seconds:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return None if status == 0 else f"status {status}: {log.read_text()[-2000:]}"


def modules(place: Path) -> list[Path]:
    """The extension, where there is one."""
    return sorted(place.glob("lib/contrastile/_C.*"))


def why_not(place: Path | None) -> str | None:
    """None, or why there is no extension in ``place``."""
    if place is not None and (place / REASON).exists():
        return (place / REASON).read_text()
    if place is None or not modules(place):
        return "the section build was not run, or did not end"
    return None


def use(place: Path | None) -> None:
    """What is built in ``place`` is the package's extension, in this process from now on."""
    if why_not(place) is not None:
        return
    if "contrastile._C" in sys.modules:
        raise RuntimeError("another extension was loaded before the one that was built here")
    assert place is not None
    contrastile.__path__.insert(0, str(place / "lib/contrastile"))
    importlib.invalidate_caches()
