"""Milliseconds on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise

import torch

Run = Callable[[], object]
LEAST, MOST = 5, 50


def is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def median_ms(run: Run, device: torch.device, seconds: float = 0.5, warmup: int = 2) -> float:
    """Median of at least five runs, and of as many as ``seconds`` have room for."""
    for _ in range(warmup):
        run()
    first = one_by_one(run, device, 1)[0]
    times = min(max(math.ceil(1000 * seconds / max(first, 1e-3)), LEAST), MOST)
    samples = sorted(one_by_one(run, device, times))
    return samples[len(samples) // 2]


def one_by_one(run: Run, device: torch.device, times: int) -> list[float]:
    """Each run between two events; nobody waits in between."""
    if not is_gpu(device):
        return [_wall(run) for _ in range(times)]
    torch.cuda.synchronize(device)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize(device)
    return [a.elapsed_time(b) for a, b in pairwise(marks)]


def _wall(run: Run) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)
