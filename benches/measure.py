"""Time and memory of running things, the providers of a case turn by turn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from contrastile.testing import AllocationSpy

from .resident import resident_growth

Key = TypeVar("Key", bound=Hashable)
Run = Callable[[], object]

# A sample lasts at least this long: shorter runs are repeated within it.
SAMPLE_SECONDS = 0.02
ROOF_SIZE = 2048
ROOF_FLOP = 2 * ROOF_SIZE**3


@dataclass(frozen=True)
class Memory:
    """Bytes allocated by one run on top of its inputs.

    Args:
        peak: most held at once by torch tensors (None for code a spy cannot see).
        largest: the largest of them.
        resident: growth of the process in physical memory, native scratch included (Linux).
    """

    peak: int | None
    largest: int | None
    resident: int | None


def timed(run: Run, times: int) -> float:
    """Seconds per run."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def interleave(runs: Mapping[Key, Run], repeats: int, budget: float) -> dict[Key, list[float]]:
    """Seconds of each run in each of ``repeats`` rounds; every round runs each of them once.

    Interference from outside then hits all alike, and the samples of one round can be compared.
    Stops after the round that exceeds ``budget`` seconds.
    """
    # The first call also warms up what has never run.
    inner = {key: math.ceil(SAMPLE_SECONDS / timed(run, 1)) for key, run in runs.items()}
    samples: dict[Key, list[float]] = {key: [] for key in runs}
    start = time.perf_counter()
    for _ in range(repeats):
        for key, run in runs.items():
            samples[key].append(timed(run, inner[key]))
        if time.perf_counter() - start > budget:
            break
    return samples


def quantiles(samples: list[float]) -> tuple[float, float, float]:
    """(20th percentile, median, 80th percentile)."""
    low, middle, high = (
        torch.tensor(samples).double().quantile(torch.tensor([0.2, 0.5, 0.8]).double())
    )
    return float(low), float(middle), float(high)


def roof() -> Run:
    """A large fp32 matrix product: the speed no loss made of matrix products can beat."""
    a, b, out = (torch.rand(ROOF_SIZE, ROOF_SIZE) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)


def memory(run: Run, eager: bool) -> Memory:
    """Memory of one run, which must have run before (first runs fill caches)."""
    if not eager:
        return Memory(None, None, resident_growth(run))
    with AllocationSpy() as spy:
        resident = resident_growth(run)
    return Memory(spy.peak_bytes, spy.largest_bytes, resident)
