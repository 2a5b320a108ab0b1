"""Where the device's time goes, kernel by kernel."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from .record import Row
from .settings import synchronize

PRODUCTS = ("gemm", "cutlass", "nvjet", "cublas", "xmma")
SHOWN = 12
OWN = re.compile(r"(?:void )?(?:contrastile::cuda::sm\d+::)?(reduce|weigh)")


def kernels(run: Callable[[], object], device: torch.device, times: int) -> dict[str, list[float]]:
    """Milliseconds and launches of each kernel, per run."""
    run()
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(times):
            run()
        synchronize(device)
    return {
        event.key: [event.self_device_time_total / 1000 / times, event.count / times]
        for event in profiler.key_averages()
        if event.device_type.name == "CUDA"
    }


def kernel_shares(run: Callable[[], object], device: torch.device, times: int = 3) -> Row:
    """The shares of the kernels that reduce, of those that weigh, of products, and of the rest."""
    found = kernels(run, device, times)
    total = sum(ms for ms, _ in found.values())
    groups: dict[str, float] = dict.fromkeys(("reduce", "weigh", "products", "rest"), 0.0)
    for name, (ms, _) in found.items():
        groups[group_of(name)] += ms
    top = sorted(found.items(), key=lambda item: -item[1][0])[:SHOWN]
    return {
        "device ms": total,
        "launches": sum(count for _, count in found.values()),
        **{f"{name} share": ms / total for name, ms in groups.items() if total},
        "kernels": {name[:100]: values for name, values in top},
    }


def group_of(kernel: str) -> str:
    """By name: Triton's carry none but their own, CUDA's their namespace."""
    own = OWN.match(kernel)
    if own is not None:
        return own[1]
    return "products" if any(part in kernel for part in PRODUCTS) else "rest"
