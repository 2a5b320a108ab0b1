"""Sections of the backend ``cuda``: those of Triton on what it supports, and both side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from contrastile import clip_loss, nt_xent, siglip_loss
from contrastile.losses.registry import LOSSES

from ..timing import median_ms
from . import errors, exact, large, memory
from .aims import Aim, judged
from .extension import why_not
from .profile import kernel_shares
from .record import Outcome, Row
from .recorder import Recorder
from .settings import Settings
from .speed import HEADLINE, OURS, Timed, step_of
from .targets import AIMED_SIZES, OVER_TRITON, PASS_TFLOPS, WIDTHS

Run = Callable[[Settings], Outcome]
BACKEND, OTHER = "cuda", "triton"
# Queries of 512 features stay in shared memory, those of 600 do not: each has tiles of its own.
SHAPES = (*errors.SHAPES[:4], errors.Shape(1021, 600, 2**20))
HALVES = {"bf16": SHAPES, "fp16": (*SHAPES[:2], SHAPES[-1])}
REPEATED = (
    # A tile of so many features goes round the ring of stages again and again: an arrival that is
    # lost stops it, one that comes twice hands out a stage that is still read.
    exact.Repeat(clip_loss, 2501, 4096, torch.bfloat16, 2**22),
    exact.Repeat(siglip_loss, 4096, 2048, torch.bfloat16),
    exact.Repeat(clip_loss, 2501, 160, torch.bfloat16, 2**22),
    exact.Repeat(clip_loss, 2501, 600, torch.float16, 2**22),
    exact.Repeat(nt_xent, 1021, 136, torch.bfloat16, 2**21),
    exact.Repeat(siglip_loss, 2501, 160, torch.bfloat16, 2**22),
)
# Rounds of each, and the rounds of the first two that the rest of the time is for.
REPEATS, ROUNDS = 100, 2000
CAPTURED = tuple(case for case in exact.CAPTURED if case.dtype is torch.bfloat16)
LARGE = (*large.CASES[:2], large.Large(46_351, 600, torch.bfloat16))
# The passes by what the profile calls their share.
PASSES = {"reduce": "reduce", "weights": "weigh"}

Times = Mapping[tuple[str, int, int], Row]


def of_cuda(run: Run, backend: str = BACKEND) -> Run:
    """A section as that backend's; where there is no extension, the reason instead."""

    def section(settings: Settings) -> Outcome:
        reason = why_not(settings.extension)
        if reason is not None:
            return Outcome.skip(f"no CUDA kernels: {reason}")
        return run(replace(settings, backend=backend))

    return section


def all_rules(device: torch.device, backend: str) -> list[errors.Rule]:
    """Every loss in half precision: fp32 has but TF32."""
    own: dict[str, Any] = {"device": device, "backend": backend}
    return [
        errors.Rule(loss, dtype, shape, later=shape != SHAPES[0], **own)
        for dtype, shapes in HALVES.items()
        for shape in shapes
        for loss in LOSSES
    ]


def errors_section(settings: Settings) -> Outcome:
    return errors.errors_section(settings, all_rules(settings.device, settings.backend))


def repeats_section(
    settings: Settings,
    cases: Sequence[exact.Repeat] = REPEATED,
    repeats: int = REPEATS,
    rounds: int = ROUNDS,
) -> Outcome:
    """The same bits every time; then, in the whole pass, many rounds of many stages."""
    tasks: dict[str, Callable[[], Row]] = {
        str(case): partial(exact.repeated, case, settings, repeats) for case in cases
    }
    hunts = {
        f"{case}, round {first} and on": partial(exact.repeated, case, settings, repeats)
        for first in range(repeats, rounds, repeats)
        for case in cases[:2]
    }
    return exact.judged(tasks, settings, hunts)


def memory_section(settings: Settings) -> Outcome:
    return memory.memory_section(settings, huge=None)


def beside_section(
    settings: Settings,
    sizes: Sequence[int] = AIMED_SIZES,
    widths: Sequence[int] = WIDTHS,
    backends: tuple[str, str] = (BACKEND, OTHER),
    dtype: str = "bf16",
) -> Outcome:
    """A step of clip_loss by each backend: ms, and TFLOP/s of it and of both of its passes."""
    times: dict[tuple[str, int, int], Row] = {}
    wrong = []
    cells = [(backend, n, d) for d in widths for n in sizes for backend in backends]
    for backend, n, d in cells:
        cell = Timed("clip_loss", OURS, n, d, dtype)
        own = replace(settings, backend=backend)
        # A quick pass has what is compared elsewhere as well.
        later = (n, d) not in {(n, d) for _, n, d in HEADLINE}
        row = settings.cell(f"{cell.name}, {backend}", partial(time_passes, cell, own), later)
        if row is None:
            continue
        times[backend, n, d] = row
        if "error" in row and backend == backends[0]:
            wrong.append(f"{cell}: {row['error']}")
    return Outcome.of(wrong, judged(aims(times, sizes, widths, backends), settings))


def time_passes(cell: Timed, settings: Settings) -> Row:
    """Milliseconds and TFLOP/s; without a working profiler those of the step alone."""
    run = step_of(cell, settings.device, settings.backend)
    ms = median_ms(run, settings.device, seconds=0.1)
    row: Row = {"step ms": ms, "step TFLOP/s": tera(4, cell, ms)}
    with Recorder() as recorder:
        row |= passes_of(cell, kernel_shares(run, settings.device))
    return row if recorder.error is None else {**row, "profiler": recorder.error.splitlines()[0]}


def passes_of(cell: Timed, shares: Row) -> Row:
    """The time of all launches of each pass."""
    row: Row = {}
    for name, group in PASSES.items():
        ms = shares[f"{group} share"] * shares["device ms"]
        if ms > 0:
            row |= {f"{name} ms": ms, f"{name} TFLOP/s": tera(1, cell, ms)}
    return row


def tera(units: int, cell: Timed, ms: float) -> float:
    """TFLOP/s of so many products of 2 N^2 D flop."""
    return units * 2 * cell.n**2 * cell.d / ms / 1e9


def aims(
    times: Times, sizes: Sequence[int], widths: Sequence[int], backends: tuple[str, str]
) -> Iterator[Aim]:
    """Of an H200, whatever device this is."""
    own, other = backends
    for n in sizes:
        for d in widths:
            row = times.get((own, n, d), {})
            for name in PASSES:
                measured = row.get(f"{name} TFLOP/s")
                yield Aim(f"{name} {n} x {d}", "TFLOP/s", measured, PASS_TFLOPS, at_least=True)
            if d in OVER_TRITON:
                ours, theirs = (times.get((b, n, d), {}).get("step ms") for b in (own, other))
                ratio = None if ours is None or theirs is None else theirs / ours
                what = f"clip_loss {n} x {d} over {other}"
                yield Aim(what, "x", ratio, OVER_TRITON[d], at_least=True)


errors_of_cuda = of_cuda(errors_section)
repeats_of_cuda = of_cuda(repeats_section)
graph_of_cuda = of_cuda(partial(exact.graph_section, cases=CAPTURED))
streams_of_cuda = of_cuda(exact.streams_section)
large_of_cuda = of_cuda(partial(large.large_section, cases=LARGE))
memory_of_cuda = of_cuda(memory_section)
beside_of_cuda = of_cuda(beside_section)
