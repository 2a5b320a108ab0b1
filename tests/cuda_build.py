"""The extension with its CUDA kernels: an install where there is no GPU leaves them out."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
import pytest
from emulated import ROOT, folder, locked

# All that there are kernels for; a build for fewer would show less.
ARCHS = "80;90a"


def nvcc() -> str:
    """The compiler of a whole toolkit; without one there is nothing to look at."""
    found = shutil.which("nvcc")
    roots = [Path(found).resolve().parents[1]] if found else []
    roots += [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    for root in [*roots, Path("/usr/local/cuda")]:
        if (root / "bin/nvcc").exists() and (root / "include/cuda_runtime.h").exists():
            return str(root / "bin/nvcc")
    pytest.skip("no CUDA toolkit here: kernels are compiled where there is one")


def extension() -> Path:
    """As CONTRASTILE_CUDA=1 builds it. It takes minutes, and is kept for the same sources."""
    digest = hashlib.sha256(subprocess.check_output([nvcc(), "--version"]))
    digest.update(" ".join([ARCHS, sys.version, pybind11.__version__]).encode())
    for path in [ROOT / "setup.py", *sorted((ROOT / "csrc").rglob("*.*"))]:
        digest.update(path.read_bytes())
    out = folder() / f"extension-{digest.hexdigest()[:20]}"
    with locked(out.name):
        if not out.exists():
            partial = out.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            build(partial)
            partial.rename(out)
    return out / "contrastile" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"


def build(place: Path) -> None:
    """The extension under ``place``; raises with the compiler's own words."""
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={place}"]
    command += [f"--build-temp={place / 'objects'}"]
    wanted = {"CONTRASTILE_NATIVE": "1", "CONTRASTILE_CUDA": "1", "CONTRASTILE_CUDA_ARCHS": ARCHS}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **wanted}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    shutil.rmtree(place / "objects")
