"""Sections ``oom`` and ``memory``: what is allocated, and what happens where nothing is left."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from contrastile.testing import AllocationSpy
from torch import Tensor

from .large import relative, sampled
from .record import Outcome, Row
from .settings import Pair, Settings, equal, pair, step, synchronize

MIB = 2**20
WORKSPACE = 16 * MIB
SIZES = (8192, 16384, 24576, 32768, 49152, 65536)
# Bytes for each pair of rows; one matrix of scores in half precision has 2.
ALLOWED_SQUARE = 0.01
# Left free: not enough, at different places of a step.
MARGINS = (4, 40, 100, 200, 300)


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
    """Bytes of a step at several N beyond its inputs, as a + b N + c N^2; then one huge forward."""
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
    if huge is not None and settings.on_gpu and not settings.quick and settings.left > 15:
        found = huge_forward(settings, *huge)
        settings.row(found)
        numbers |= {"forward of 1M, s": found["seconds"], "its MiB": found["MiB"]}
        if not found["error"] <= 1e-5:
            wrong.append(f"forward at {huge}: off by {found['error']:.2g}")
    return Outcome.of(wrong, numbers)


def peak(settings: Settings, inputs: Pair, workspace: int) -> int:
    """Bytes of a step beyond its inputs, gradients included; warmed up before."""
    loss = settings.loss()
    step(loss, inputs, workspace=workspace)
    if not settings.on_gpu:
        with AllocationSpy() as spy:
            step(loss, inputs, workspace=workspace)
        return spy.peak_bytes
    return gpu_peak(settings.device, lambda: step(loss, inputs, workspace=workspace))


def gpu_peak(device: torch.device, run: Callable[[], object]) -> int:
    """Bytes held at most during ``run`` beyond those held before."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def fit(sizes: Sequence[int], values: Sequence[int]) -> tuple[float, float, float]:
    """(c, b, a) of a + b N + c N^2, least squares."""
    n = torch.tensor(sizes, dtype=torch.float64)
    scale = n.max()
    powers = torch.stack([(n / scale) ** 2, n / scale, torch.ones_like(n)], dim=1)
    target = torch.tensor(values, dtype=torch.float64)[:, None]
    c, b, a = torch.linalg.lstsq(powers, target).solution[:, 0].tolist()
    return c / float(scale) ** 2, b / float(scale), a


@torch.no_grad()
def huge_forward(settings: Settings, n: int, d: int, sample: int = 16) -> Row:
    """One forward at a size no other way can do; the loss of some rows against fp64."""
    inputs = pair(n, d, torch.bfloat16, settings.device)
    loss = settings.loss()
    # The kernels are compiled at a size that takes no time.
    small = pair(4096, d, torch.bfloat16, settings.device)
    loss(small.x, small.y, logit_scale=small.scale, reduction="none")
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    found: list[Tensor] = []

    def run() -> None:
        begin.record()
        found.append(loss(inputs.x, inputs.y, logit_scale=inputs.scale, reduction="none"))
        end.record()

    used = gpu_peak(settings.device, run)
    rows = sampled(n, sample, settings.device)
    error = relative(found[0][rows], row_losses(inputs, rows))
    seconds = begin.elapsed_time(end) / 1000
    flop = 2.0 * n * n * d
    return {
        "n": n,
        "d": d,
        "seconds": seconds,
        "TFLOP/s": flop / seconds / 1e12,
        "MiB": used / MIB,
        "error": error,
    }


def row_losses(inputs: Pair, rows: Tensor) -> Tensor:
    """clip_loss of some rows in fp64, the other side taken in pieces."""
    x, y, scale = inputs.x, inputs.y, inputs.scale.double()
    own = scale * (x[rows].double() * y[rows].double()).sum(1)
    total = torch.zeros_like(own)
    for mine, other in ((x, y), (y, x)):
        parts = [
            (scale * (mine[rows].double() @ piece.double().T)).logsumexp(1)
            for piece in other.split(2**17)
        ]
        total += torch.stack(parts).logsumexp(0) - own
    return total / 2
