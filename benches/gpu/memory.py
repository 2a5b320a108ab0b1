"""Sections ``oom`` and ``memory``: what is allocated, and what happens where nothing is left."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor

from .huge import dtype_of, huge_step, too_small
from .large import too_far
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
    wrong, raised = [], 0
    rows = {
        f"{margin} MiB left": settings.cell(
            f"{margin} MiB left", partial(starve, settings, n, d, margin * MIB)
        )
        for margin in MARGINS
    }
    for name, row in rows.items():
        if row is None:
            continue
        if "error" in row:
            wrong.append(f"{name}: {row['error']}")
            continue
        raised += row["raised"]
        if row["leaked"] or not row["works"]:
            wrong.append(f"{name}: {row['leaked']} bytes leaked, works again: {row['works']}")
    if not raised and None not in rows.values():
        wrong.append("no call ran out of memory")
    return Outcome.of(wrong, {"calls": len(MARGINS), "out of memory": raised})


def starve(settings: Settings, n: int, d: int, margin: int) -> Row:
    """A step with ``margin`` bytes left, and whether it works again with all of them."""
    inputs = pair(n, d, torch.bfloat16, settings.device)
    expected = step(settings.loss(), inputs)
    synchronize(settings.device)
    held = torch.cuda.memory_allocated(settings.device)
    torch.cuda.empty_cache()
    filling = fill(settings.device, margin)
    failed = out_of_memory(settings, inputs)
    del filling
    gc.collect()
    torch.cuda.empty_cache()
    leaked = torch.cuda.memory_allocated(settings.device) - held
    again = equal(step(settings.loss(), inputs), expected)
    return {"raised": failed, "leaked": leaked, "works": again}


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
    numbers: Row = {}
    wrong = []
    extra: dict[int, int] = {}
    for n in sizes:
        row = settings.cell(f"{n} x {d}", partial(extra_bytes, settings, n, d, workspace))
        if row is not None and "error" in row:
            wrong.append(f"{n} x {d}: {row['error']}")
        elif row is not None:
            extra[n] = row["bytes"]
    if len(extra) == len(sizes):
        square, linear, fixed = fit(sizes, list(extra.values()))
        law = max(used / (workspace + 16 * n * d) for n, used in extra.items())
        numbers = {
            "bytes a pair": square,
            "bytes a row": linear,
            "fixed MiB": fixed / MIB,
            "largest share of workspace + 8 (N + M) D": law,
        }
        if not abs(square) <= ALLOWED_SQUARE:
            wrong.append(f"{square:.3g} bytes for each pair, allowed {ALLOWED_SQUARE}")
        if not law <= 1:
            wrong.append(f"{law:.3g} times workspace + 8 (N + M) D")
    if huge is not None and settings.on_gpu:
        found = of_huge_step(settings, huge)
        numbers |= found.numbers
        wrong += [found.reason] if found.reason else []
    return Outcome.of(wrong, numbers)


def extra_bytes(settings: Settings, n: int, d: int, workspace: int) -> Row:
    """What a step takes beyond its inputs, and what share of the law that is."""
    dtype = torch.bfloat16 if settings.on_gpu else torch.float32
    used = peak(settings, pair(n, d, dtype, settings.device), workspace)
    return {"bytes": used, "of the law": used / (workspace + 16 * n * d)}


def of_huge_step(settings: Settings, size: tuple[int, int]) -> Outcome:
    """A step at that N and D, where there is the memory and the time."""
    name = f"step of {size[0]} x {size[1]}"
    if settings.left < HUGE_SECONDS and name not in settings.cells.done:
        settings.cells.left += 1
        return Outcome(SKIPPED, {name: f"{settings.left:.0f} s left, it takes {HUGE_SECONDS}"})
    row = settings.cell(name, partial(judged_step, settings, size))
    assert row is not None, "there was the time"
    if "error" in row:
        return Outcome.of([f"{name}: {row['error']}"], {})
    if "left out" in row:
        return Outcome(SKIPPED, {name: row["left out"]})
    wrong = [f"{name}: {text}" for text in row["wrong"]]
    return Outcome.of(wrong, {f"{name}, s": row["seconds"], "its MiB": row["bytes"] / MIB})


def judged_step(settings: Settings, size: tuple[int, int]) -> Row:
    """The step and what is wrong with it, or why the device is too small for it."""
    reason = too_small(*size, settings.device)
    if reason is not None:
        return {"left out": reason}
    row = huge_step(settings, *size)
    return {**row, "wrong": too_far(row["errors"], dtype_of(settings))}


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
