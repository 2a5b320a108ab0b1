"""Sections on the same numbers under other conditions: repeats, graph, streams, devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from contrastile import clip_loss, nt_xent, siglip_loss
from torch import Tensor

from ..timing import is_gpu
from .pool import each
from .record import Outcome, Row
from .settings import (
    Loss,
    Pair,
    Settings,
    difference,
    equal,
    pair,
    step,
    synchronize,
)

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
    return judged(
        {str(case): partial(repeated, case, settings, repeats) for case in cases}, settings
    )


def judged(
    tasks: Mapping[str, Callable[[], Row]],
    settings: Settings,
    more: Mapping[str, Callable[[], Row]] | None = None,
) -> Outcome:
    """Cells with a row that says how many of how many repeats differ; ``more`` of them where
    there is time, but not in a quick pass.
    """
    wrong, done = [], 0
    for name, task in [*tasks.items(), *(more or {}).items()]:
        row = settings.cell(name, task, later=name not in tasks)
        if row is None:
            continue
        done += row.get("repeats", 0)
        if "error" in row:
            wrong.append(f"{name}: {row['error']}")
        elif row["differing"]:
            wrong.append(f"{name}: {row['differing']} of {row['repeats']} repeats differ")
    return Outcome.of(wrong, {"cases": len(tasks), "repeats": done})


def repeated(case: Repeat, settings: Settings, repeats: int) -> Row:
    """How many repeats differ from the first run."""
    inputs = pair(case.n, case.d, case.dtype, settings.device)
    loss = settings.loss(case.loss)
    first = step(loss, inputs, workspace=case.workspace)
    noise = Noise(settings.device)
    differing = 0
    for turn in range(repeats):
        noise.make(turn % 2 == 1)
        again = step(loss, inputs, workspace=case.workspace)
        differing += not equal(first, again)
    return {"repeats": repeats, "differing": differing}


class Noise:
    """Work on another stream, so that blocks are not scheduled the same way each time."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if is_gpu(device) else None
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
    todo = [case for case in cases if str(case) not in settings.cells.done]
    if settings.compiles:
        # Compiled side by side, found in Triton's cache below; what fails here fails there too.
        run = partial(run_once, settings.device, settings.backend)
        for _ in each(run, todo, list(map(str, todo)), settings):
            pass
    wrong, worst = [], 0.0
    for case in cases:
        row = settings.cell(str(case), partial(replayed, case, settings, capture))
        if row is None:
            continue
        if "error" in row:
            wrong.append(f"{case}: {row['error']}")
            continue
        worst = max(worst, row["worst"])
        wrong += [f"{case}: {text}" for text in row["wrong"]]
    return Outcome.of(wrong, {"cases": len(cases), "largest difference": worst})


def run_once(device: torch.device, backend: str, case: Repeat) -> bool:
    """For what it leaves in the cache of compiled kernels."""
    loss = partial(case.loss, backend=backend)
    step(loss, pair(case.n, case.d, case.dtype, device), workspace=case.workspace)
    return True


def replayed(case: Repeat, settings: Settings, captured: Callable[[Loss, Pair], Replay]) -> Row:
    """All replays of a case, and what is wrong with them."""
    found = list(replays(case, settings, captured))
    # Written so that a NaN is wrong.
    wrong = [
        f"length {row['length']}, scale {row['scale']}: off by {row['error']:.2g}"
        for row in found
        if not row["error"] <= HALF_EPS[case.dtype]
    ]
    return {"worst": max(row["error"] for row in found), "wrong": wrong, "replays": found}


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
    case = f"clip_loss {n} x {d}, {rounds} rounds"
    row = settings.cell(case, partial(side_by_side, settings, n, d, rounds))
    if row is None or "error" in row:
        return Outcome.of([row["error"]] if row else [], {})
    off = not row["largest difference"] <= HALF_EPS[torch.bfloat16]
    return Outcome.of([f"off by {row['largest difference']:.2g}"] if off else [], row)


def side_by_side(settings: Settings, n: int, d: int, rounds: int) -> Row:
    """How far steps on two streams are from the same steps one after the other."""
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
    return {
        "steps": len(pairs),
        "largest difference": max(difference(*both) for both in pairs),
        "other bits": sum(not equal(*both) for both in pairs),
    }


def devices_section(settings: Settings, n: int = 1021, d: int = 136) -> Outcome:
    """Tensors on a device that is not the current one."""
    if not settings.on_gpu or torch.cuda.device_count() < 2:
        return Outcome.skip(f"needs two GPUs, there are {torch.cuda.device_count()}")
    there = torch.device("cuda", (settings.device.index or 0) ^ 1)
    wrong = []
    for dtype in (torch.bfloat16, torch.float32):
        row = settings.cell(str(dtype), partial(elsewhere, settings, there, n, d, dtype))
        if row is not None and not row.get("bits equal"):
            wrong.append(
                f"{dtype}: {row.get('error', 'another result than on the current device')}"
            )
    return Outcome.of(wrong, {"devices": torch.cuda.device_count()})


def elsewhere(settings: Settings, there: torch.device, n: int, d: int, dtype: torch.dtype) -> Row:
    """Whether a step is the same when another device is the current one."""
    run = partial(step, settings.loss(), pair(n, d, dtype, there))
    with torch.cuda.device(settings.device):
        away = run()
    with torch.cuda.device(there):
        home = run()
    placed = all(t.device == there for t in away)
    return {"placed": placed, "bits equal": placed and equal(away, home)}
