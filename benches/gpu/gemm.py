"""The section ``gemm``: what torch.mm reaches, on squares and on the strips of the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..timing import median_ms
from .record import Outcome, Row
from .settings import Settings

SQUARES = (4096, 8192, 16384)
WIDTHS = (256, 512, 768, 1024)
KEYS = (32768, 65536)
STRIP_BYTES = 2**28
UNIT, INTO_FP32 = "TFLOP/s", "TFLOP/s into fp32"


def gemm_section(
    settings: Settings,
    squares: Sequence[int] = SQUARES,
    keys: Sequence[int] = KEYS,
    widths: Sequence[int] = WIDTHS,
    strip_bytes: int = STRIP_BYTES,
) -> Outcome:
    """TFLOP/s of bf16 products of random numbers."""
    best: dict[str, float] = {}
    wrong = []
    products = [("square", (size, size, size)) for size in squares]
    for n in keys:
        height = min(strip_bytes // (2 * n), n)
        for d in widths:
            shapes = {"S = Q K^T": (height, d, n), "G K": (height, n, d), "G^T Q": (n, height, d)}
            products += list(shapes.items())
    for what, shape in products:
        name = f"{what} {' x '.join(map(str, shape))}"
        row = settings.cell(name, partial(measure, what, shape, settings))
        if row is not None and "error" in row:
            wrong.append(f"{name}: {row['error']}")
        elif row is not None:
            for kind in (UNIT, INTO_FP32):
                best[f"{kind} {what}"] = max(best.get(f"{kind} {what}", 0.0), row.get(kind, 0.0))
    return Outcome.of(wrong, {what: round(speed) for what, speed in best.items() if speed})


def measure(what: str, shape: tuple[int, int, int], settings: Settings) -> Row:
    """TFLOP/s of a product, and of it into fp32; factors lie as they do in the losses."""
    m, k, n = shape
    left = random(settings, k, m).T if what == "G^T Q" else random(settings, m, k)
    right = random(settings, n, k).T if what == "S = Q K^T" else random(settings, k, n)
    runs = {UNIT: product(left, right)}
    if settings.on_gpu and what in ("G K", "G^T Q"):
        runs[INTO_FP32] = into_fp32(left, right)
    ms = {kind: median_ms(run, settings.device, seconds=0.05) for kind, run in runs.items()}
    return {kind: 2 * m * k * n / took / 1e9 for kind, took in ms.items()}


def random(settings: Settings, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, device=settings.device, dtype=torch.bfloat16)


def product(left: Tensor, right: Tensor) -> Callable[[], object]:
    return lambda: torch.mm(left, right)


def into_fp32(left: Tensor, right: Tensor) -> Callable[[], object]:
    """As the engine takes it: added to an fp32 accumulator."""
    out = torch.zeros(len(left), right.shape[1], device=left.device)
    return lambda: torch.addmm(out, left, right, out_dtype=torch.float32, out=out)
