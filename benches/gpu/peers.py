"""The section ``peers``: other libraries on clip_loss, installed or carried along as wheels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from ..check import evaluate
from ..inputs import Inputs
from ..naive import LossFunction
from .record import PASS, Outcome, Row
from .recorder import Recorder
from .settings import Settings
from .speed import OURS, Timed, inputs_of, loss_of
from .timing import median_ms
from .wheels import unpacked

SIZES = ((32768, 512), (8192, 512), (32768, 1024))


def open_clip() -> LossFunction:
    module = import_module("open_clip.loss").ClipLoss()
    return lambda inputs: module(*inputs.embeddings, inputs.scale)


def cut_cross_entropy() -> LossFunction:
    return both_ways(import_module("cut_cross_entropy").linear_cross_entropy)


def liger() -> LossFunction:
    name = "liger_kernel.transformers.fused_linear_cross_entropy"
    module = import_module(name).LigerFusedLinearCrossEntropyLoss()
    return both_ways(lambda query, key, target: module(key, query, target))


def inf_cl() -> LossFunction:
    flash = import_module("inf_cl").cal_flash_loss

    def loss(inputs: Inputs) -> Tensor:
        x, y = inputs.embeddings
        rows = flash(x, y, scale=inputs.scale.to(x.dtype)).mean()  # type: ignore[union-attr]
        columns = flash(y, x, scale=inputs.scale.to(x.dtype)).mean()  # type: ignore[union-attr]
        return (rows + columns) / 2

    return loss


def both_ways(cross_entropy: Callable[[Tensor, Tensor, Tensor], Tensor]) -> LossFunction:
    """clip_loss of a linear cross-entropy whose classes are the other side's rows."""

    def loss(inputs: Inputs) -> Tensor:
        x, y = inputs.embeddings
        target = torch.arange(len(x), device=x.device)
        rows = cross_entropy((inputs.scale * x).to(x.dtype), y, target)
        columns = cross_entropy((inputs.scale * y).to(y.dtype), x, target)
        return (rows + columns) / 2

    return loss


PEERS: dict[str, Callable[[], LossFunction]] = {
    "open_clip": open_clip,
    "cut_cross_entropy": cut_cross_entropy,
    "liger_kernel": liger,
    "inf_cl": inf_cl,
}


def peers_section(settings: Settings, sizes: Sequence[tuple[int, int]] = SIZES) -> Outcome:
    """Milliseconds of a training step, and the largest difference of the loss from ours."""
    with unpacked(settings.wheels) as wheels:
        here = [name for name in PEERS if find_spec(name)]
        if not here:
            carried = f", nor in {len(wheels)} wheels" if wheels else ""
            return Outcome.skip(f"none is installed{carried}: {', '.join(PEERS)}")
        return compare(here, settings, sizes)


def compare(here: Sequence[str], settings: Settings, sizes: Sequence[tuple[int, int]]) -> Outcome:
    """The peers that are here, beside ours."""
    numbers: Row = {}
    largest: dict[str, float] = {}
    for n, d in sizes:
        cell = Timed("clip_loss", OURS, n, d, "bf16" if settings.on_gpu else "fp32")
        inputs = inputs_of(cell, settings.device)
        own = loss_of(cell, settings.backend)
        loss = float(evaluate(own, inputs)[0])
        ms = median_ms(partial(evaluate, own, inputs), settings.device, seconds=0.2)
        settings.row({"peer": OURS, "n": n, "d": d, "loss": loss, "ms": ms})
        for name in here:
            if settings.left < 0:
                break
            row = time_peer(name, inputs, settings)
            if "ms" in row:
                row["difference"] = relative(row["loss"], loss)
                largest[name] = max(largest.get(name, 0.0), row["difference"])
                numbers[f"{name} {n} x {d}, x ours"] = row["ms"] / ms
            else:
                numbers[f"{name} {n} x {d}"] = row["error"]
            settings.row({"peer": name, "n": n, "d": d, **row})
    numbers |= {f"{name}: largest difference": value for name, value in largest.items()}
    return Outcome(PASS, numbers)


def relative(value: float, ours: float) -> float:
    """Infinite for what is no number, so that it is the largest."""
    found = abs(value - ours) / abs(ours)
    return found if found == found else float("inf")


def time_peer(name: str, inputs: Inputs, settings: Settings) -> Row:
    """A peer that cannot says so in its row: it is no fault of ours."""
    row: Row = {}
    with Recorder() as recorder:
        loss = PEERS[name]()
        value, _ = evaluate(loss, inputs)
        ms = median_ms(lambda: evaluate(loss, inputs), settings.device, seconds=0.2)
        row = {"loss": float(value), "ms": ms}
    if recorder.error is not None:
        row["error"] = recorder.error.splitlines()[0]
    if settings.on_gpu:
        torch.cuda.empty_cache()
    return row
