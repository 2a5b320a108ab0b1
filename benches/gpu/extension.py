"""The native extension with its CUDA kernels, built where the check runs or elsewhere and carried
there: the section ``build``.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import contrastile
import torch

from . import leash
from .record import FAIL, PASS, ROOT, Outcome, Row
from .settings import Settings
from .wheels import unpacked

BUILD, FOLDER, REASON, LOG = "build", "extension", "why-not.txt", "build.log"
# What setup.py reads; without pyproject.toml, which asks for a newer setuptools than it needs.
TREE = ("setup.py", "csrc", "python", "triton_kernels", "benches")
# Where setup.py looks besides the path.
NVCC = Path("/usr/local/cuda/bin/nvcc")
SHIM = "def get_include():\n    return {!r}\n"
# Where a module of the package lies below ``place``.
MODULE = Path("lib", "contrastile")
# Says what an extension has; torch comes first, as in the package, for the OpenMP they share.
ASK = """
import json, sys, torch
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
path = sys.argv[1]
spec = spec_from_file_location("_C", path, loader=ExtensionFileLoader("_C", path))
module = module_from_spec(spec)
spec.loader.exec_module(module)
print(json.dumps({name: getattr(module, name, "") for name in ("cuda_archs", "no_cuda")}))
"""

Builder = Callable[[Path, str, float], str | None]


def build_section(settings: Settings, builder: Builder | None = None) -> Outcome:
    """For this machine alone; what follows runs in a process that finds the result."""
    place = settings.extension
    if place is None:
        return Outcome.skip("there is no folder to build in")
    draft = place.with_name(f"{place.name}.draft")
    for folder in (place, draft):
        shutil.rmtree(folder, ignore_errors=True)
    draft.mkdir(parents=True)
    reason = unable(settings)
    if reason is not None:
        outcome = Outcome.skip(reason)
    elif settings.carried is not None:
        outcome = carry(settings.carried, draft, settings)
    else:
        outcome = make(draft, settings, builder or build)
    if outcome.reason is not None:
        (draft / REASON).write_text(outcome.reason)
    # In one step: a process that is killed leaves no half of a module.
    draft.rename(place)
    return outcome


def make(place: Path, settings: Settings, builder: Builder) -> Outcome:
    """Compiles it."""
    arch = arch_of(*torch.cuda.get_device_capability(settings.device))
    with headers(place, settings.wheels) as where:
        error = builder(place, arch, settings.left)
    numbers: Row = {"arch": arch, "pybind11": where}
    if error is not None:
        return Outcome(FAIL, numbers, f"the build failed: {error}")
    settings.row({**numbers, "built": [str(path.relative_to(place)) for path in modules(place)]})
    return Outcome(PASS, numbers)


def carry(path: Path, place: Path, settings: Settings) -> Outcome:
    """Takes the one that was built elsewhere, if it can be loaded here and has CUDA kernels."""
    asked = [sys.executable, "-c", ASK, str(path)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return Outcome(FAIL, {}, f"{path.name} cannot be loaded here: {said[-1]}")
    facts = json.loads(done.stdout)
    if not facts["cuda_archs"]:
        return Outcome(FAIL, {}, f"{path.name} has no CUDA kernels: {facts['no_cuda']}")
    (place / MODULE).mkdir(parents=True)
    shutil.copy(path, place / MODULE)
    settings.row({"carried": path.name, **facts})
    return Outcome(PASS, {"carried": path.name, "archs": facts["cuda_archs"]})


def misfit(path: Path) -> str | None:
    """None, or why a file cannot be this Python's ``_C``, by its name."""
    if not path.is_file():
        return f"there is no file {path}"
    name, _, suffix = path.name.partition(".")
    if name == "_C" and f".{suffix}" in EXTENSION_SUFFIXES:
        return None
    return (
        f"{path.name} is not for this Python, which loads _C{EXTENSION_SUFFIXES[0]}: build it with "
        f"Python {sys.version_info.major}.{sys.version_info.minor} on the same kind of machine"
    )


def unable(settings: Settings) -> str | None:
    """None, or what is missing for an extension."""
    if not settings.on_gpu:
        return "CUDA kernels need a GPU"
    if torch.version.hip is not None:
        return "CUDA kernels need an NVIDIA GPU"
    if settings.carried is not None:
        return None
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
    status = leash.run(command, place / LOG, seconds, tree, env)
    shutil.rmtree(place / "objects", ignore_errors=True)
    if status is None:
        return f"not done in {seconds:.0f} s"
    return None if status == 0 else f"status {status}: {(place / LOG).read_text()[-2000:]}"


def modules(place: Path) -> list[Path]:
    """The extension, where there is one."""
    return sorted((place / MODULE).glob("_C.*"))


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
    contrastile.__path__.insert(0, str(place / MODULE))
    importlib.invalidate_caches()
