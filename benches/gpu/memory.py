"""Sections ``oom`` and ``memory``: what is allocated, and what happens where nothing is left."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor

from .huge import dtype_of, huge_step, too_far, too_small
from .peak import held_at_most
from .record import SKIPPED, Outcome, Row
from .settings import Pair, Settings, equal, pair, step, synchronize

MIB = 2**20
WORKSPACE = 16 * MIB
SIZES = (8192, 16384, 24576, 32768, 49152, 65536)
# Bytes for each pair of rows; one matrix of scores in half precision has 2.
ALLOWED_SQUARE = 0.01
# Left free: not enough, at different places of a step.
MARGINS = (4, 40, 100, 200, 300)
# Expected are 5 to 8 for the step itself, 5 for the log-sum-exps it is compared with, and as many
# to compile.
HUGE_SECONDS = 25


def oom_section(settings: Settings, n: int = 16384, d: int = 512) -> Outcome:
    """Fills the memory but for a margin, calls, frees, and calls again."""
    if not settings.on_gpu:
        return Outcome.skip("filling the memory is for a GPU")
    loss, inputs = settings.loss(), pair(n, d, torch.bfloat16, settings.device)
    expected = step(loss, inputs)
    synchronize(settings.device)
    held = torch.cuda.memory_allocated(settings.device)
    wrong, raised = [], 0
    for margin in MARGINS:
        torch.cuda.empty_cache()
        filling = fill(settings.device, margin * MIB)
        failed = out_of_memory(settings, inputs)
        del filling
        gc.collect()
        torch.cuda.empty_cache()
        leaked = torch.cuda.memory_allocated(settings.device) - held
        again = equal(step(loss, inputs), expected)
        settings.row({"MiB left": margin, "raised": failed, "leaked": leaked, "works": again})
        raised += failed
        if leaked or not again:
            wrong.append(f"{margin} MiB left: {leaked} bytes leaked, works again: {again}")
    if not raised:
        wrong.append("no call ran out of memory")
    return Outcome.of(wrong, {"calls": len(MARGINS), "out of memory": raised})


def out_of_memory(settings: Settings, inputs: Pair) -> bool:
    """Whether a step raises torch's own error; any other goes on."""
    try:
        step(settings.loss(), inputs)
        synchronize(settings.device)
    except torch.cuda.OutOfMemoryError:
        return True
    return False


def fill(device: torch.device, margin: int) -> list[Tensor]:
    """Takes all memory of the device but ``margin`` bytes."""
    held: list[Tensor] = []
    size = torch.cuda.mem_get_info(device)[0] - margin
    while size >= 2 * MIB:
        with suppress(torch.cuda.OutOfMemoryError):
            held.append(torch.empty(size, dtype=torch.uint8, device=device))
        free = torch.cuda.mem_get_info(device)[0] - margin
        size = min(free, size // 2) if free < size else size // 2
    return held


def memory_section(
    settings: Settings,
    sizes: Sequence[int] = SIZES,
    d: int = 256,
    workspace: int = WORKSPACE,
    huge: tuple[int, int] | None = (2**20, 512),
) -> Outcome:
    """Bytes of a step at several N beyond its inputs, as a + b N + c N^2; then one huge step."""
    extra = []
    for n in sizes:
        inputs = pair(n, d, torch.bfloat16 if settings.on_gpu else torch.float32, settings.device)
        used = peak(settings, inputs, workspace)
        law = workspace + 8 * 2 * n * d
        extra.append(used)
        settings.row({"n": n, "d": d, "bytes": used, "of the law": used / law})
    square, linear, fixed = fit(sizes, extra)
    laws = [used / (workspace + 16 * n * d) for n, used in zip(sizes, extra, strict=True)]
    numbers: Row = {
        "bytes a pair": square,
        "bytes a row": linear,
        "fixed MiB": fixed / MIB,
        "largest share of workspace + 8 (N + M) D": max(laws),
    }
    wrong = []
    if not abs(square) <= ALLOWED_SQUARE:
        wrong.append(f"{square:.3g} bytes for each pair, allowed {ALLOWED_SQUARE}")
    if not max(laws) <= 1:
        wrong.append(f"{max(laws):.3g} times workspace + 8 (N + M) D")
    if huge is not None and settings.on_gpu and not settings.quick:
        found = of_huge_step(settings, huge)
        numbers |= found.numbers
        wrong += [found.reason] if found.reason else []
    return Outcome.of(wrong, numbers)


def of_huge_step(settings: Settings, size: tuple[int, int]) -> Outcome:
    """A step at that N and D, where there is the memory and the time."""
    name = f"step of {size[0]} x {size[1]}"
    reason = too_small(*size, settings.device)
    if reason is None and settings.left < HUGE_SECONDS:
        reason = f"left out: {settings.left:.0f} s are left, it takes {HUGE_SECONDS}"
    if reason is not None:
        settings.row({"huge": name, "left out": reason})
        return Outcome(SKIPPED, {name: reason})
    row = huge_step(settings, *size)
    settings.row(row)
    wrong = [f"{name}: {text}" for text in too_far(row["errors"], dtype_of(settings))]
    return Outcome.of(wrong, {f"{name}, s": row["seconds"], "its MiB": row["bytes"] / MIB})


def peak(settings: Settings, inputs: Pair, workspace: int) -> int:
    """Bytes of a step beyond its inputs, gradients included; warmed up before."""
    run = partial(step, settings.loss(), inputs, workspace=workspace)
    run()
    return held_at_most(settings.device, run)


def fit(sizes: Sequence[int], values: Sequence[int]) -> tuple[float, float, float]:
    """(c, b, a) of a + b N + c N^2, least squares."""
    n = torch.tensor(sizes, dtype=torch.float64)
    scale = n.max()
    powers = torch.stack([(n / scale) ** 2, n / scale, torch.ones_like(n)], dim=1)
    target = torch.tensor(values, dtype=torch.float64)[:, None]
    c, b, a = torch.linalg.lstsq(powers, target).solution[:, 0].tolist()
    return c / float(scale) ** 2, b / float(scale), a
