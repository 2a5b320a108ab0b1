"""The section ``host``: what a step costs the process that calls it, however fast the device is."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from .aims import Aim, judged
from .profile import kernels
from .record import Outcome, Row
from .recorder import Recorder
from .settings import Settings, synchronize
from .speed import OURS, PLAIN, Timed, step_of
from .targets import HOST_US

# Fewer steps in flight than a queue of launches holds.
BURST = 10


def host_section(settings: Settings, n: int = 256, d: int = 512, bursts: int = 30) -> Outcome:
    """Wall time of the Python calls, nobody waiting for the device."""
    numbers: Row = {}
    aims: list[Aim] = []
    wrong = []
    for loss in ("clip_loss", "siglip_loss"):
        for provider in (OURS, PLAIN):
            cell = Timed(loss, provider, n, d, "bf16" if settings.on_gpu else "fp32")
            row = settings.cell(cell.name, partial(cost, cell, settings, bursts))
            if row is None:
                continue
            if "error" in row:
                wrong += [f"{cell.name}: {row['error']}"] if provider == OURS else []
                continue
            numbers[f"{loss} {provider} us"] = round(row["us"])
            if provider == OURS:
                aims.append(Aim(f"{loss} on the host", "us", row["us"], HOST_US))
    return Outcome.of(wrong, {**numbers, **judged(aims, settings)})


def cost(cell: Timed, settings: Settings, bursts: int) -> Row:
    """Microseconds of a call, and what it launches."""
    run = step_of(cell, settings.device, settings.backend)
    row: Row = {"us": call_us(run, settings, bursts)}
    return row | on_device(run, settings) if settings.on_gpu else row


def on_device(run: Callable[[], object], settings: Settings) -> Row:
    """Launches and time of the kernels; without a working profiler the host's time still counts."""
    row: Row = {}
    with Recorder() as recorder:
        found = kernels(run, settings.device, BURST)
        row["launches"] = sum(count for _, count in found.values())
        row["device us"] = 1000 * sum(ms for ms, _ in found.values())
    return row if recorder.error is None else {"profiler": recorder.error}


def call_us(run: Callable[[], object], settings: Settings, bursts: int) -> float:
    """Median microseconds of a call."""
    samples = []
    for _ in range(bursts + 1):
        synchronize(settings.device)
        for _ in range(BURST):
            start = time.perf_counter()
            run()
            samples.append(time.perf_counter() - start)
    steady = sorted(samples[BURST:])
    return 1e6 * steady[len(steady) // 2]


def probe(device: torch.device, backend: str) -> None:
    """A few steps at sizes that no tile divides, for tools that watch a process."""
    for loss in ("clip_loss", "nt_xent", "siglip_loss"):
        for dtype in ("bf16", "fp32"):
            step_of(Timed(loss, OURS, 150, 40, dtype), device, backend)()
    synchronize(device)
    print("probe done", flush=True)
