"""The section ``specialised``: warp-specialised launches, which wait for a device to run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from contrastile.backends.triton.device import Device
from contrastile.backends.triton.launch import Table, specialised, trying

from .errors import Rule, Shape, errors_section, judge
from .machine import installed
from .profile import kernel_shares
from .record import Outcome, Row
from .recorder import Recorder
from .settings import Settings
from .speed import OURS, Timed, step_of
from .timing import median_ms

LEAST_TRITON = (3, 7)
# In several strips or beyond small: the general form is not specialised.
SHAPES = (Shape(1021, 136, 2**19), Shape(2100, 512))
LOSSES = ("clip_loss", "info_nce", "nt_xent", "siglip_loss")
RULES = (*(Rule(loss, "bf16", SHAPES) for loss in LOSSES), Rule("clip_loss", "fp16", SHAPES))
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
        if settings.left < 0:
            break
        cell = Timed("clip_loss", OURS, n, d)
        launches: dict[str, Table] = {WITHOUT: {}, WITH: specialised(arch)}
        for name, table in launches.items():
            row = time_weights(cell, table, settings)
            settings.row({"launches": name, "n": n, "d": d, **row})
            wrong += [f"{cell}, {name}: {row['error']}"] if "error" in row else []
            numbers |= {f"{cell}, {name}: {what}": ms for what, ms in row.items() if "ms" in what}
    return Outcome.of(wrong, numbers)


def unable(arch: str, triton: str | None) -> str | None:
    """None, or why there is nothing to try."""
    if not specialised(arch):
        return f"no launches of {arch} are on trial"
    if triton is None or tuple(map(int, triton.split(".")[:2])) < LEAST_TRITON:
        least = ".".join(map(str, LEAST_TRITON))
        return f"Triton {triton} cannot compile them, {least} is the first that can"
    return None


def judge_specialised(rule: Rule) -> list[Row]:
    """In a process of its own: what is tried there is tried there alone."""
    with trying(specialised(Device.of(rule.device).arch)):
        return judge(rule)


def time_weights(cell: Timed, table: Table, settings: Settings) -> Row:
    """Milliseconds of a step, and of its kernels that weigh where there is a profiler."""
    row: Row = {}
    with Recorder() as recorder, trying(table):
        run = step_of(cell, settings.device, settings.backend)
        row["step ms"] = median_ms(run, settings.device, seconds=0.2)
        row |= weights_ms(run, settings)
    return row if recorder.error is None else {**row, "error": recorder.error.splitlines()[0]}


def weights_ms(run: Callable[[], object], settings: Settings) -> Row:
    row: Row = {}
    with Recorder() as recorder:
        shares = kernel_shares(run, settings.device)
        row = {"weights ms": shares["weigh share"] * shares["device ms"]}
    return row if recorder.error is None else {"profiler": recorder.error.splitlines()[0]}
