"""One step of a million rows, which no other way can do: the end of the section ``memory``."""

from __future__ import annotations

import time
from functools import partial

import torch
from contrastile import info_nce
from torch import Tensor

from ..timing import is_gpu
from .large import gradient, relative, sampled
from .peak import held_at_most
from .record import Row
from .settings import Pair, Settings, pair, step, synchronize

GIB = 2**30
# About what an H200 takes by itself.
WORKSPACE = 2 * GIB
# Bytes for each entry of an embedding: both sides in half precision, what the memory law allows,
# and one side in fp64 for the sample.
BYTES = 4 + 16 + 8
WARM = 4096
# Columns that the sample meets at a time.
PIECE = 2**17


def too_small(n: int, d: int, device: torch.device) -> str | None:
    """None, or why the device's memory does not do."""
    if not is_gpu(device):
        return None
    torch.cuda.empty_cache()
    needed = WORKSPACE + BYTES * n * d
    free, _ = torch.cuda.mem_get_info(device)
    if free >= needed:
        return None
    return f"left out: needs {needed / GIB:.1f} GiB, {free / GIB:.1f} are free"


def dtype_of(settings: Settings) -> torch.dtype:
    """Half precision is what the device is for."""
    return torch.bfloat16 if settings.on_gpu else torch.float32


def huge_step(settings: Settings, n: int, d: int, sample: int = 16) -> Row:
    """Seconds and bytes of clip_loss forward and backward, and the errors of a sample of rows."""
    dtype, loss = dtype_of(settings), partial(settings.loss(), workspace=WORKSPACE)
    # The kernels are compiled at a size that takes no time.
    step(loss, pair(min(n, WARM), d, dtype, settings.device))
    inputs = pair(n, d, dtype, settings.device)
    found: list[tuple[Tensor, ...]] = []
    seconds: list[float] = []

    def run() -> None:
        synchronize(settings.device)
        start = time.perf_counter()
        found.append(step(loss, inputs))
        synchronize(settings.device)
        seconds.append(time.perf_counter() - start)

    used = held_at_most(settings.device, run)
    return {
        "n": n,
        "d": d,
        "seconds": seconds[0],
        "TFLOP/s": 8.0 * n * n * d / seconds[0] / 1e12,
        "bytes": used,
        "errors": errors(settings, inputs, found.pop(), sampled(n, sample, settings.device)),
    }


@torch.no_grad()
def errors(settings: Settings, inputs: Pair, got: tuple[Tensor, ...], rows: Tensor) -> Row:
    """Relative errors: of the log-sum-exps of sampled rows against fp64, of the loss and of the
    gradients of these rows against fp64 from all log-sum-exps, and of the scale's gradient against
    the sum of <x_i, dL/dx_i> / scale, which it equals.
    """
    loss, dx, dy, dscale = got
    own = (inputs.x.float() * inputs.y.float()).sum(1) * inputs.scale
    row_lse, col_lse = (
        settings.loss(info_nce)(a, b, logit_scale=inputs.scale, reduction="none") + own
        for a, b in ((inputs.x, inputs.y), (inputs.y, inputs.x))
    )
    inner = sum(
        (a.double() * b.double()).sum()
        for a, b in zip(inputs.x.split(PIECE), dx.split(PIECE), strict=True)
    )
    scale = inputs.scale.double()
    return {
        "rows": relative(row_lse[rows], log_sums(inputs.x[rows], inputs.y, scale)),
        "columns": relative(col_lse[rows], log_sums(inputs.y[rows], inputs.x, scale)),
        "loss": relative(loss, ((row_lse + col_lse).double() / 2 - own).mean()),
        "scale": relative(dscale, inner / scale),
        "x": relative(
            dx[rows], gradient(inputs.x, inputs.y.double(), scale, row_lse, col_lse, rows)
        ),
        "y": relative(
            dy[rows], gradient(inputs.y, inputs.x.double(), scale, col_lse, row_lse, rows)
        ),
    }


def log_sums(some: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """In fp64, over all rows of the other side, a piece at a time."""
    parts = [
        (scale * (some.double() @ piece.double().T)).logsumexp(1) for piece in other.split(PIECE)
    ]
    return torch.stack(parts).logsumexp(0)
