"""The section ``environment``: what the other sections were measured on."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from ..environment import environment
from .record import PASS, Outcome, Row, sources
from .settings import Settings

SMI = (
    "name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.mem,"
    "power.limit,temperature.gpu,persistence_mode,mig.mode.current"
)


def environment_section(settings: Settings) -> Outcome:
    """Versions, the device and the code."""
    facts: Row = {
        **environment(),
        "sources": sources(),
        "triton": installed("triton"),
        "numpy": installed("numpy"),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cores": os.cpu_count(),
        "devices": torch.cuda.device_count(),
        "nvcc": line_of("nvcc", "--version"),
        "nvidia-smi": line_of("nvidia-smi", f"--query-gpu={SMI}", "--format=csv,noheader"),
    }
    if settings.on_gpu:
        facts |= of_gpu(settings.device)
    settings.row(facts)
    shown = ("device", "multiprocessors", "torch", "triton", "cuda", "nvidia-smi", "sources")
    return Outcome(PASS, {name: facts[name] for name in shown if facts.get(name)})


def of_gpu(device: torch.device) -> Row:
    """What torch knows of the device, without its identity."""
    properties = torch.cuda.get_device_properties(device)
    names = (
        *("name", "major", "minor", "total_memory", "multi_processor_count", "L2_cache_size"),
        *("shared_memory_per_block_optin", "regs_per_multiprocessor", "clock_rate"),
    )
    facts: Row = {n: getattr(properties, n) for n in names if hasattr(properties, n)}
    free, total = torch.cuda.mem_get_info(device)
    return {
        **facts,
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "free_bytes": free,
        "total_bytes": total,
    }


def installed(name: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def line_of(*command: str) -> str | None:
    """The last line a tool prints; None where there is no such tool."""
    tool = shutil.which(command[0])
    if tool is None:
        return None
    done = subprocess.run([tool, *command[1:]], capture_output=True, text=True, check=False)
    text = (done.stdout or done.stderr).strip()
    return text.splitlines()[-1] if text else None
