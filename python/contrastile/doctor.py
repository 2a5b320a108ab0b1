"""What this installation can use, and why not the rest."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import torch

from . import __version__, native
from .backends import BACKENDS

EXTRAS = ("matplotlib", "pillow", "rich")
MISSING = "not installed"
Lines = Iterable[tuple[str, str]]


def report() -> str:
    """The whole report as text."""
    sections: dict[str, Lines] = {
        "Environment": environment(),
        "Native extension": extension(),
        "Backends, best first": ((b.name, b.available() or "ready") for b in BACKENDS),
        "Optional packages": ((name, installed(name)) for name in EXTRAS),
    }
    blocks = [_section(title, lines) for title, lines in sections.items()]
    return "\n\n".join([f"Contrastile {__version__}", *blocks])


def environment() -> Lines:
    """Python, torch, Triton, threads and accelerators."""
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "torch", torch.__version__
    yield "triton", installed("triton")
    yield "threads", f"{torch.get_num_threads()} (torch) of {os.cpu_count()} processors"
    yield "GPU", gpus()
    yield "fp32 products", f"precision {torch.get_float32_matmul_precision()!r} (torch's switch)"


def gpus() -> str:
    """The names of the GPUs, or why there is none."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "none: this torch is built for the CPU"
    if not torch.cuda.is_available():
        return "none: torch finds no usable device or driver"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def extension() -> Lines:
    """The compiled passes over the scores, and the SIMD levels this processor can run."""
    module = native.load()
    if module is None:
        yield "contrastile._C", "not built: losses on the CPU work, but slower"
        yield "remedy", "install contrastile with a C++ compiler on the PATH"
    else:
        yield "contrastile._C", "loaded"
        best, *others = module.levels()
        yield "SIMD", f"{best} in use" + (f" (also {', '.join(others)})" if others else "")
        yield "CUDA kernels", native.cuda_archs() or f"not built: {native.why_no_cuda()}"


def installed(distribution: str) -> str:
    """The version of a distribution."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return MISSING


def _section(title: str, lines: Lines) -> str:
    return "\n".join([title, *(f"  {name:<15} {text}" for name, text in lines)])
