"""The section ``speed``: a training step over sizes, beside the plain formula and the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from unittest import mock

import torch
from contrastile import functional
from contrastile.backends.triton import backend as triton_backend
from contrastile.losses.inputs import Inputs
from contrastile.losses.registry import LOSSES
from contrastile.verify import evaluate

from ..cases import Case
from ..naive import NAIVE, LossFunction
from ..providers.dense import Compiled
from ..timing import median_ms
from .aims import Aim, judged
from .pool import each
from .profile import kernel_shares
from .record import Outcome, Row
from .settings import Settings, pair
from .targets import AIMED_SIZES, MILLISECONDS, NO_SLOWER_AT, OVER_EAGER, WIDTHS

OURS, PLAIN, COMPILED = "contrastile", "naive", "naive-compiled"
# What everybody asks first, and all that a quick pass has.
HEADLINE = (
    ("clip_loss", 32768, 512),
    ("clip_loss", 65536, 768),
    ("siglip_loss", 65536, 768),
)
SIZES = (65536, 32768, 16384, 8192, 4096, 2048, 1024)
PROFILED = (("clip_loss", 32768, 512), ("clip_loss", 65536, 1024), ("siglip_loss", 65536, 768))
# From here on all batches launch the same kernels.
WARM = 4096
KEPT, RECOMPUTED = "kept", "recomputed"
# The least embedding size of which dot products are kept; the workspace is room for them, for a
# block of them more, and for weights.
KEEP_FROM = {KEPT: 0, RECOMPUTED: 2**31}
KEPT_BLOCKS = 3
SECONDS = 0.3


@dataclass(frozen=True)
class Timed:
    """One cell of the table; ``dots``: whether ours keeps them, where it is not to choose."""

    loss: str
    provider: str
    n: int
    d: int
    dtype: str = "bf16"
    dots: str | None = None

    @property
    def case(self) -> Case:
        return Case(self.loss, self.n, self.d, dtype=self.dtype)

    @property
    def workspace(self) -> int | None:
        """None is the device's own."""
        return None if self.dots is None else KEPT_BLOCKS * 4 * self.n**2

    @property
    def name(self) -> str:
        """No other cell of a section has it."""
        dots = "" if self.dots is None else f", dots {self.dots}"
        return f"{self} {self.dtype}, {self.provider}{dots}"

    def __str__(self) -> str:
        return f"{self.loss} {self.n} x {self.d}"


def speed_section(
    settings: Settings,
    sizes: Sequence[int] = SIZES,
    widths: Sequence[int] = WIDTHS,
    headline: Sequence[tuple[str, int, int]] = HEADLINE,
    profiled: Sequence[tuple[str, int, int]] = PROFILED,
    dtype: str = "bf16",
) -> Outcome:
    """The headline first, then what has a target, the other sizes, and the plain formula."""
    first = [replace(cell, dtype=dtype) for cell in headlines(headline)]
    cells = [replace(cell, dtype=dtype) for cell in plan(sizes, widths)]
    compile_first(first if settings.quick else [*first, *cells], settings)
    times: dict[Timed, float] = {}
    wrong = []
    for cell in dict.fromkeys([*first, *cells]):
        later = cell not in first
        row = settings.cell(cell.name, partial(time_cell, cell, settings), later)
        if row is None:
            continue
        if "ms" in row:
            times[cell] = row["ms"]
            if cell.provider == OURS and is_profiled(cell, profiled):
                name = f"profile of {cell.name}"
                settings.cell(name, partial(profile_cell, cell, settings), later=True)
        elif cell.provider == OURS:
            wrong.append(f"{cell.name}: {row['error']}")
    numbers = {**judged(aims(times, dtype), settings), **gains(times)}
    return Outcome.of(wrong, numbers)


def compile_first(cells: Sequence[Timed], settings: Settings) -> None:
    """Side by side; what is timed finds its kernels in Triton's cache."""
    if settings.on_gpu and settings.compiles:
        ours = [c for c in cells if c.provider == OURS and c.name not in settings.cells.done]
        todo = list(dict.fromkeys(map(stand_in, ours)))
        run = partial(run_once, settings.device, settings.backend)
        for _ in each(run, todo, [cell.name for cell in todo], settings):
            pass


def stand_in(cell: Timed) -> Timed:
    """A small cell that launches the same kernels; the largest keep no dot products."""
    return cell if cell.n <= WARM else replace(cell, n=WARM, dots=cell.dots or RECOMPUTED)


def is_profiled(cell: Timed, profiled: Sequence[tuple[str, int, int]]) -> bool:
    return cell.dots is None and (cell.loss, cell.n, cell.d) in profiled


def aims(times: Mapping[Timed, float], dtype: str = "bf16") -> Iterator[Aim]:
    """Of an H200, whatever device this is."""
    for (loss, n, d), ms in MILLISECONDS.items():
        cell = Timed(loss, OURS, n, d, dtype)
        yield Aim(str(cell), "ms", times.get(cell), ms)
    over = [(n, d, wanted) for n in AIMED_SIZES for d, wanted in OVER_EAGER.items()]
    over += [(n, d, 1.0) for n in NO_SLOWER_AT for d in WIDTHS]
    for n, d, wanted in over:
        cell = Timed("clip_loss", OURS, n, d, dtype)
        own, eager = times.get(cell), times.get(replace(cell, provider=PLAIN))
        ratio = None if own is None or eager is None else eager / own
        yield Aim(f"{cell} over eager", "x", ratio, wanted, at_least=True)


def gains(times: Mapping[Timed, float]) -> Row:
    """How much faster a step is that keeps its dot products, where both ways were timed."""
    found: Row = {}
    for cell, ms in times.items():
        other = replace(cell, dots=RECOMPUTED)
        if cell.dots == KEPT and other in times:
            found[f"{cell}: ms {RECOMPUTED} / {KEPT}"] = times[other] / ms
    return found


def headlines(which: Sequence[tuple[str, int, int]]) -> list[Timed]:
    """clip_loss by ours, then eager, then compiled; then the other losses by ours and eager."""
    clip = [case for case in which if case[0] == "clip_loss"]
    other = [case for case in which if case[0] != "clip_loss"]
    pairs = [(provider, case) for provider in (OURS, PLAIN, COMPILED) for case in clip]
    pairs += [(provider, case) for case in other for provider in (OURS, PLAIN)]
    return [Timed(loss, provider, n, d) for provider, (loss, n, d) in pairs]


def plan(sizes: Sequence[int], widths: Sequence[int]) -> Iterator[Timed]:
    """Every cell once, the most wanted first."""
    cells = [
        *(Timed("clip_loss", OURS, n, d) for n in sizes[:2] for d in widths),
        Timed("siglip_loss", OURS, sizes[0], widths[min(2, len(widths) - 1)]),
        *(Timed("clip_loss", OURS, n, d) for n in sizes for d in widths),
        *(
            Timed("clip_loss", OURS, n, d, dots=dots)
            for n in sizes[2:3]
            for d in widths[1:]
            for dots in KEEP_FROM
        ),
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
    """Milliseconds of a step."""
    reason = Compiled().unavailable() if cell.provider == COMPILED else None
    if reason is not None:
        raise RuntimeError(reason)
    ms = median_ms(step_of(cell, settings.device, settings.backend), settings.device, SECONDS)
    flop = LOSSES[cell.loss].training * 2 * cell.n**2 * cell.d
    return {"ms": ms, "TFLOP/s": flop / ms / 1e9}


def profile_cell(cell: Timed, settings: Settings) -> Row:
    """Where its time goes."""
    return kernel_shares(step_of(cell, settings.device, settings.backend), settings.device)


def step_of(cell: Timed, device: torch.device, backend: str) -> Callable[[], object]:
    """Loss and gradients, the scale's and the bias's among them."""
    run = partial(evaluate, loss_of(cell, backend), inputs_of(cell, device))
    return run if cell.dots is None else partial(keeping_from, KEEP_FROM[cell.dots], run)


def keeping_from(size: int, run: Callable[[], object]) -> object:
    """What ``run`` returns where dot products are kept from that embedding size on."""
    with mock.patch.object(triton_backend, "KEEP_FROM", size):
        return run()


def loss_of(cell: Timed, backend: str) -> LossFunction:
    if cell.provider == PLAIN:
        return NAIVE[cell.loss]
    if cell.provider == COMPILED:
        return Compiled().build(cell.case)
    options = {"backend": backend, "workspace": cell.workspace}
    function = partial(getattr(functional, cell.loss), **options)

    def ours(inputs: Inputs) -> torch.Tensor:
        bias = {} if inputs.bias is None else {"logit_bias": inputs.bias}
        return function(*inputs.embeddings, logit_scale=inputs.scale, **bias)

    return ours


def inputs_of(cell: Timed, device: torch.device) -> Inputs:
    """Drawn on the device: at these sizes the CPU would take seconds."""
    made = pair(cell.n, cell.d, cell.case.torch_dtype, device)
    if cell.loss != "siglip_loss":
        return Inputs((made.x, made.y), (), made.scale)
    scale, bias = (
        torch.tensor(value, device=device, requires_grad=True)
        for value in LOSSES[cell.loss].parameters.values()
    )
    return Inputs((made.x, made.y), (), scale, bias)


def run_once(device: torch.device, backend: str, cell: Timed) -> bool:
    """For what it leaves in the cache of compiled kernels."""
    step_of(cell, device, backend)()
    return True
