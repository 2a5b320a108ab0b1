"""The section ``gemm``: what torch.mm reaches, on squares and on the strips of the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .record import PASS, Outcome
from .settings import Settings
from .timing import median_ms

SQUARES = (4096, 8192, 16384)
WIDTHS = (256, 512, 768, 1024)
KEYS = (32768, 65536)
STRIP_BYTES = 2**28


def gemm_section(
    settings: Settings,
    squares: Sequence[int] = SQUARES,
    keys: Sequence[int] = KEYS,
    widths: Sequence[int] = WIDTHS,
    strip_bytes: int = STRIP_BYTES,
) -> Outcome:
    """TFLOP/s of bf16 products of random numbers."""
    best: dict[str, float] = {}

    def measure(what: str, shape: tuple[int, int, int], run: Callable[[], object]) -> None:
        m, k, n = shape
        ms = median_ms(run, settings.device, seconds=0.05)
        speed = 2 * m * k * n / ms / 1e9
        settings.row({"product": what, "m": m, "k": k, "n": n, "ms": ms, "TFLOP/s": speed})
        best[what] = max(best.get(what, 0.0), speed)

    for size in squares:
        a, b = random(settings, size, size), random(settings, size, size)
        measure("square", (size, size, size), product(a, b))
    for n in keys:
        height = min(strip_bytes // (2 * n), n)
        strip = random(settings, height, n)
        for d in widths:
            if settings.left < 0:
                break
            key, query = random(settings, n, d), random(settings, height, d)
            for what, shape, left, right in (
                ("S = Q K^T", (height, d, n), query, key.T),
                ("G K", (height, n, d), strip, key),
                ("G^T Q", (n, height, d), strip.T, query),
            ):
                measure(what, shape, product(left, right))
                if settings.on_gpu and what != "S = Q K^T":
                    measure(f"{what} into fp32", shape, into_fp32(left, right))
    return Outcome(PASS, {f"TFLOP/s {what}": round(speed) for what, speed in best.items()})


def random(settings: Settings, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, device=settings.device, dtype=torch.bfloat16)


def product(left: Tensor, right: Tensor) -> Callable[[], object]:
    return lambda: torch.mm(left, right)


def into_fp32(left: Tensor, right: Tensor) -> Callable[[], object]:
    """As the engine takes it: added to an fp32 accumulator."""
    out = torch.zeros(len(left), right.shape[1], device=left.device)
    return lambda: torch.addmm(out, left, right, out_dtype=torch.float32, out=out)
