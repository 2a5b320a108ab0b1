"""The section ``speed``: a training step over sizes, beside the plain formula and the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from contrastile import functional

from ..cases import LOSSES, Case
from ..check import evaluate
from ..inputs import SIGMOID_BIAS, SIGMOID_SCALE, Inputs
from ..naive import NAIVE, LossFunction
from ..providers.dense import Compiled
from .pool import each
from .profile import kernel_shares
from .record import FAIL, Outcome, Row
from .recorder import Recorder
from .settings import Settings, pair
from .timing import median_ms

OURS, PLAIN, COMPILED = "contrastile", "naive", "naive-compiled"
WIDTHS = (256, 512, 768, 1024)
SIZES = (65536, 32768, 16384, 8192, 4096, 2048, 1024)
# Milliseconds on an H200, bf16.
TARGETS = {
    **{("clip_loss", 32768, d): ms for d, ms in zip(WIDTHS, (3.4, 6.7, 10, 13.3), strict=True)},
    **{("clip_loss", 65536, d): ms for d, ms in zip(WIDTHS, (13.3, 26.5, 40, 53), strict=True)},
    ("siglip_loss", 65536, 768): 40.0,
}
PROFILED = (("clip_loss", 32768, 512), ("clip_loss", 65536, 1024), ("siglip_loss", 65536, 768))
WARM = 4096


@dataclass(frozen=True)
class Timed:
    """One cell of the table."""

    loss: str
    provider: str
    n: int
    d: int
    dtype: str = "bf16"

    @property
    def case(self) -> Case:
        return Case(self.loss, self.n, self.d, dtype=self.dtype)

    @property
    def target(self) -> float | None:
        return TARGETS.get((self.loss, self.n, self.d)) if self.provider == OURS else None


def speed_section(
    settings: Settings,
    sizes: Sequence[int] = SIZES,
    widths: Sequence[int] = WIDTHS,
    profiled: Sequence[tuple[str, int, int]] = PROFILED,
    dtype: str = "bf16",
) -> Outcome:
    """What has a target first, then the other sizes, then the plain formula."""
    cells = [replace(cell, dtype=dtype) for cell in plan(sizes, widths)]
    if settings.quick:
        cells = [cell for cell in cells if cell.provider != COMPILED and cell.n <= 32768]
    warm = list(dict.fromkeys(replace(c, n=WARM) for c in cells if c.provider == OURS))
    # Compiled side by side, found in Triton's cache below.
    if settings.on_gpu:
        for _ in each(partial(run_once, settings.device, settings.backend), warm, settings):
            pass
    ours: dict[Timed, float] = {}
    wrong, met, left_out = [], 0, 0
    for position, cell in enumerate(cells):
        if settings.left < 0:
            left_out = len(cells) - position
            break
        row = time_cell(cell, settings)
        settings.row(row)
        if cell.provider == OURS:
            if "ms" not in row:
                wrong.append(f"{cell.loss} {cell.n} x {cell.d}: {row['error']}")
                continue
            ours[cell] = row["ms"]
            met += cell.target is not None and row["ms"] <= cell.target
            shape = (cell.loss, cell.n, cell.d)
            if shape in profiled and settings.on_gpu:
                settings.row({"profile": shape, **profile_cell(cell, settings)})
    aimed = {f"{c.loss[:4]} {c.n // 1024}k x {c.d}": ms for c, ms in ours.items() if c.target}
    numbers: Row = {"targets met": f"{met} of {len(TARGETS)}", "not timed": left_out}
    numbers |= {f"ms {name}": ms for name, ms in aimed.items()}
    return Outcome.of(wrong, numbers) if ours else Outcome(FAIL, numbers, "; ".join(wrong) or "-")


def plan(sizes: Sequence[int], widths: Sequence[int]) -> Iterator[Timed]:
    """Every cell once, the most wanted first."""
    cells = [
        *(Timed("clip_loss", OURS, n, d) for n in sizes[:2] for d in widths),
        Timed("siglip_loss", OURS, sizes[0], widths[min(2, len(widths) - 1)]),
        *(Timed("clip_loss", OURS, n, d) for n in sizes for d in widths),
        *(Timed("clip_loss", PLAIN, n, d) for n in sizes for d in widths),
        Timed("siglip_loss", PLAIN, sizes[0], widths[min(2, len(widths) - 1)]),
        # Each is compiled anew: a width at a time, so that there is a whole one.
        *(Timed("clip_loss", COMPILED, n, d) for d in sorted(widths, key=_order) for n in sizes),
    ]
    yield from dict.fromkeys(cells)


def _order(d: int) -> int:
    """512, 1024, 256, 768: where a comparison says most."""
    return {512: 0, 1024: 1, 256: 2}.get(d, 3)


def time_cell(cell: Timed, settings: Settings) -> Row:
    """Milliseconds of a step, or the error in their place."""
    row: Row = {"loss": cell.loss, "provider": cell.provider, "n": cell.n, "d": cell.d}
    if cell.provider == COMPILED:
        reason = Compiled().unavailable()
        if reason is not None:
            return {**row, "error": reason}
    with Recorder() as recorder:
        run = step_of(cell, settings.device, settings.backend)
        ms = median_ms(run, settings.device, seconds=0.1 if settings.quick else 0.3)
        row |= {"ms": ms, "TFLOP/s": LOSSES[cell.loss].training * 2 * cell.n**2 * cell.d / ms / 1e9}
        if cell.target is not None:
            row |= {"target": cell.target, "of target": ms / cell.target}
    if recorder.error is not None:
        row["error"] = recorder.error.splitlines()[0]
    if settings.on_gpu:
        torch.cuda.empty_cache()
    return row


def profile_cell(cell: Timed, settings: Settings) -> Row:
    """Where its time goes; without a working profiler the times still count."""
    row: Row = {}
    with Recorder() as recorder:
        run = step_of(cell, settings.device, settings.backend)
        row = kernel_shares(run, settings.device)
    return row if recorder.error is None else {"error": recorder.error}


def step_of(cell: Timed, device: torch.device, backend: str) -> Callable[[], object]:
    """Loss and gradients, the scale's and the bias's among them."""
    return partial(evaluate, loss_of(cell, backend), inputs_of(cell, device))


def loss_of(cell: Timed, backend: str) -> LossFunction:
    if cell.provider == PLAIN:
        return NAIVE[cell.loss]
    if cell.provider == COMPILED:
        return Compiled().build(cell.case)
    function = getattr(functional, cell.loss)

    def ours(inputs: Inputs) -> torch.Tensor:
        bias = {} if inputs.bias is None else {"logit_bias": inputs.bias}
        return function(*inputs.embeddings, logit_scale=inputs.scale, backend=backend, **bias)

    return ours


def inputs_of(cell: Timed, device: torch.device) -> Inputs:
    """Drawn on the device: at these sizes the CPU would take seconds."""
    made = pair(cell.n, cell.d, cell.case.torch_dtype, device)
    if cell.loss != "siglip_loss":
        return Inputs((made.x, made.y), (), made.scale)
    scale, bias = (
        torch.tensor(value, device=device, requires_grad=True)
        for value in (SIGMOID_SCALE, SIGMOID_BIAS)
    )
    return Inputs((made.x, made.y), (), scale, bias)


def run_once(device: torch.device, backend: str, cell: Timed) -> bool:
    """For what it leaves in the cache of compiled kernels."""
    step_of(cell, device, backend)()
    return True
