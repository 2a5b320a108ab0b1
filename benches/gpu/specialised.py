"""The section ``specialised``: warp-specialised launches, which wait for a device to run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from contrastile.backends.triton.device import Device
from contrastile.backends.triton.launch import Table, specialised, trying

from ..timing import median_ms
from .errors import Rule, Shape, errors_section, judge
from .machine import installed
from .profile import kernel_shares
from .record import Outcome, Row
from .recorder import Recorder
from .settings import Settings
from .speed import OURS, Timed, step_of

LEAST_TRITON = (3, 7)
# In several strips or beyond small: the general form is not specialised.
SHAPES = (Shape(1021, 136, 2**19), Shape(2100, 512))
LOSSES = ("clip_loss", "info_nce", "nt_xent", "siglip_loss")
RULES = tuple(
    Rule(loss, dtype, shape)
    for loss, dtype in (*((loss, "bf16") for loss in LOSSES), ("clip_loss", "fp16"))
    for shape in SHAPES
)
TIMED = ((32768, 256), (32768, 1024))
WITH, WITHOUT = "specialised", "shipped"


def specialised_section(settings: Settings) -> Outcome:
    """The error rule, and the time of clip_loss and of its weights with and without."""
    if not settings.on_gpu:
        return Outcome.skip("needs a GPU")
    arch = Device.of(settings.device).arch
    reason = unable(arch, installed("triton"))
    if reason is not None:
        return Outcome.skip(reason)
    rules = [replace(r, device=settings.device, backend=settings.backend) for r in RULES]
    found = errors_section(settings, rules, judge_specialised)
    wrong, numbers = [found.reason] if found.reason else [], dict(found.numbers)
    for n, d in TIMED:
        cell = Timed("clip_loss", OURS, n, d)
        launches: dict[str, Table] = {WITHOUT: {}, WITH: specialised(arch)}
        for how, table in launches.items():
            name = f"{cell}, {how}"
            row = settings.cell(name, partial(time_weights, cell, table, settings))
            if row is None:
                continue
            wrong += [f"{name}: {row['error']}"] if "error" in row else []
            numbers |= {f"{name}: {what}": ms for what, ms in row.items() if "ms" in what}
    return Outcome.of(wrong, numbers)


def unable(arch: str, triton: str | None) -> str | None:
    """None, or why there is nothing to try."""
    if not specialised(arch):
        return f"no launches of {arch} are on trial"
    if not can_compile(triton):
        least = ".".join(map(str, LEAST_TRITON))
        return f"Triton {triton} cannot compile them, {least} is the first that can"
    return None


def can_compile(triton: str | None) -> bool:
    """Whether a version of Triton, if any, compiles what is on trial."""
    return triton is not None and tuple(map(int, triton.split(".")[:2])) >= LEAST_TRITON


def judge_specialised(rule: Rule) -> list[Row]:
    """In a process of its own: what is tried there is tried there alone."""
    with trying(specialised(Device.of(rule.device).arch)):
        return judge(rule)


def time_weights(cell: Timed, table: Table, settings: Settings) -> Row:
    """Milliseconds of a step, and of its kernels that weigh where there is a profiler."""
    with trying(table):
        run = step_of(cell, settings.device, settings.backend)
        ms = median_ms(run, settings.device, seconds=0.2)
        return {"step ms": ms, **weights_ms(run, settings)}


def weights_ms(run: Callable[[], object], settings: Settings) -> Row:
    row: Row = {}
    with Recorder() as recorder:
        shares = kernel_shares(run, settings.device)
        row = {"weights ms": shares["weigh share"] * shares["device ms"]}
    return row if recorder.error is None else {"profiler": recorder.error.splitlines()[0]}
