"""Sections on the same numbers under other conditions: repeats, graph, streams, devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from contrastile import clip_loss, nt_xent, siglip_loss
from torch import Tensor

from .pool import each
from .record import Outcome, Row
from .settings import Loss, Pair, Settings, difference, equal, pair, step, synchronize

Replay = Callable[[], tuple[Tensor, ...]]
REPEATS = 250
HALF_EPS = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@dataclass(frozen=True)
class Repeat:
    """A loss at a size; a small workspace makes several strips."""

    loss: Loss
    n: int
    d: int
    dtype: torch.dtype
    workspace: int | None = None

    def __str__(self) -> str:
        return f"{self.loss.__name__} {self.n} x {self.d} {self.dtype}".replace("torch.", "")


REPEATED = (
    Repeat(clip_loss, 2501, 160, torch.bfloat16, 2**22),
    Repeat(clip_loss, 1021, 136, torch.float32, 2**20),
    Repeat(nt_xent, 1021, 136, torch.bfloat16, 2**21),
    Repeat(siglip_loss, 2501, 160, torch.bfloat16, 2**22),
)


def repeats_section(
    settings: Settings, cases: Sequence[Repeat] = REPEATED, repeats: int = REPEATS
) -> Outcome:
    """Forward and backward again and again; half of the time beside other work on the device."""
    wrong = []
    repeats = min(repeats, 25) if settings.quick else repeats
    for case in cases:
        inputs = pair(case.n, case.d, case.dtype, settings.device)
        loss = settings.loss(case.loss)
        first = step(loss, inputs, workspace=case.workspace)
        noise = Noise(settings.device)
        differing, done = 0, 0
        for turn in range(repeats):
            if settings.left < 0:
                break
            noise.make(turn % 2 == 1)
            again = step(loss, inputs, workspace=case.workspace)
            differing, done = differing + (not equal(first, again)), done + 1
        settings.row({"case": str(case), "repeats": done, "differing": differing})
        if differing or done < repeats:
            wrong.append(f"{case}: {differing} of {done} repeats differ, {repeats} were wanted")
    return Outcome.of(wrong, {"cases": len(cases), "repeats": repeats})


class Noise:
    """Work on another stream, so that blocks are not scheduled the same way each time."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.factor = torch.ones(1024, 1024, device=device)

    def make(self, wanted: bool) -> None:
        """Starts some of it, where there is another stream."""
        if self.stream is not None and wanted:
            with torch.cuda.stream(self.stream):
                for _ in range(4):
                    torch.mm(self.factor, self.factor)


# On the device the batches beyond small ones and those of several blocks launch both forms.
CAPTURED = (
    Repeat(clip_loss, 1500, 192, torch.bfloat16),
    Repeat(clip_loss, 2501, 192, torch.bfloat16),
    Repeat(clip_loss, 2501, 192, torch.float32, 2**22),
    Repeat(nt_xent, 700, 192, torch.bfloat16),
    Repeat(nt_xent, 1300, 192, torch.bfloat16, 2**22),
    Repeat(siglip_loss, 2501, 192, torch.bfloat16, 2**22),
)
# Seed, length of the rows and scale. No fixed shift holds the exponents of rows of length 40.
REPLAYED = ((1, 1.0, 14.3), (2, 1.0, 100.0), (3, 40.0, 100.0), (4, 1.0, 5.0))


def graph_section(settings: Settings, cases: Sequence[Repeat] = CAPTURED) -> Outcome:
    """Captured once, replayed on data that need the fixed and the running shift."""
    if not settings.on_gpu:
        return Outcome.skip("CUDA graphs need a GPU")
    # Compiled side by side, found in Triton's cache below.
    compiled = cases if settings.compiles else ()
    for case, told in each(
        partial(run_once, settings.device, settings.backend), compiled, settings
    ):
        if isinstance(told, str):
            settings.row({"case": str(case), "compiling": told.splitlines()[0]})
    wrong, worst = [], 0.0
    for case in cases:
        if settings.left < 0:
            wrong.append(f"{case}: no time was left")
            continue
        for row in replays(case, settings, capture):
            settings.row({"case": str(case), **row})
            worst = max(worst, row["error"])
            if not row["error"] <= HALF_EPS[case.dtype]:
                where = f"length {row['length']}, scale {row['scale']}"
                wrong.append(f"{case}: {where}: off by {row['error']:.2g}")
    return Outcome.of(wrong, {"cases": len(cases), "largest difference": worst})


def run_once(device: torch.device, backend: str, case: Repeat) -> bool:
    """For what it leaves in the cache of compiled kernels."""
    loss = partial(case.loss, backend=backend)
    step(loss, pair(case.n, case.d, case.dtype, device), workspace=case.workspace)
    return True


def replays(
    case: Repeat, settings: Settings, captured: Callable[[Loss, Pair], Replay]
) -> Iterator[Row]:
    """How far each replay is from the same step without a graph."""
    loss = partial(settings.loss(case.loss), workspace=case.workspace)
    inputs = pair(case.n, case.d, case.dtype, settings.device)
    replay = captured(loss, inputs)
    for seed, length, scale in REPLAYED:
        fill(inputs, pair(case.n, case.d, case.dtype, settings.device, seed), length, scale)
        got, expected = tuple(t.clone() for t in replay()), step(loss, inputs)
        error, same = difference(got, expected), equal(got, expected)
        yield {"length": length, "scale": scale, "error": error, "bits equal": same}


def capture(loss: Loss, inputs: Pair) -> Replay:
    """Loss and gradients as a graph: a function that replays it and returns its outputs."""
    side = torch.cuda.Stream(inputs.x.device)
    side.wait_stream(torch.cuda.current_stream(inputs.x.device))
    with torch.cuda.stream(side):
        for _ in range(3):
            step(loss, inputs)
    torch.cuda.current_stream(inputs.x.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step(loss, inputs)

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return outputs

    return replay


@torch.no_grad()
def fill(inputs: Pair, other: Pair, length: float, scale: float) -> None:
    """New numbers in the same memory."""
    inputs.x.copy_(other.x * length)
    inputs.y.copy_(other.y)
    inputs.scale.fill_(scale)


def streams_section(settings: Settings, n: int = 3001, d: int = 128, rounds: int = 20) -> Outcome:
    """Two streams with data of their own, not waiting for each other."""
    if not settings.on_gpu:
        return Outcome.skip("streams need a GPU")
    inputs = [pair(n, d, torch.bfloat16, settings.device, seed) for seed in (0, 1)]
    loss = settings.loss()
    expected = [step(loss, own) for own in inputs]
    streams = [torch.cuda.Stream(settings.device) for _ in inputs]
    synchronize(settings.device)
    found: list[list[tuple[Tensor, ...]]] = [[], []]
    for _ in range(rounds):
        for stream, own, results in zip(streams, inputs, found, strict=True):
            with torch.cuda.stream(stream):
                results.append(step(loss, own))
    synchronize(settings.device)
    pairs = [(r, want) for results, want in zip(found, expected, strict=True) for r in results]
    numbers = {
        "steps": len(pairs),
        "largest difference": max(difference(*both) for both in pairs),
        "other bits": sum(not equal(*both) for both in pairs),
    }
    settings.row(numbers)
    off = not numbers["largest difference"] <= HALF_EPS[torch.bfloat16]
    return Outcome.of([f"off by {numbers['largest difference']:.2g}"] if off else [], numbers)


def devices_section(settings: Settings, n: int = 1021, d: int = 136) -> Outcome:
    """Tensors on a device that is not the current one."""
    if not settings.on_gpu or torch.cuda.device_count() < 2:
        return Outcome.skip(f"needs two GPUs, there are {torch.cuda.device_count()}")
    here, there = settings.device, torch.device("cuda", (settings.device.index or 0) ^ 1)
    wrong = []
    for dtype in (torch.bfloat16, torch.float32):
        inputs = pair(n, d, dtype, there)
        run = partial(step, settings.loss(), inputs)
        with torch.cuda.device(here):
            away = run()
        with torch.cuda.device(there):
            home = run()
        placed = all(t.device == there for t in away)
        same = placed and equal(away, home)
        settings.row({"dtype": str(dtype), "bits equal": same, "placed": placed})
        if not same:
            wrong.append(f"{dtype}: another result than with {there} as the current device")
    return Outcome.of(wrong, {"devices": torch.cuda.device_count()})
