"""Every loss on this machine's backends, against the formula in fp64 with all scores in memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

from .backends import BACKENDS
from .doctor import devices
from .losses.inputs import Inputs
from .losses.registry import LOSSES, LossEntry
from .problem import InputError
from .problem.advice import unadvised

# No multiple of a tile or a vector, and large enough for several tiles.
ROWS, SIZE = 332, 72
# Scores in one block, and in strips of a few rows each.
WORKSPACES = (None, 1 << 16)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Largest error relative to the largest entry. A wrong formula is off by a few hundredths at least;
# half precision rounds gradients, and on a GPU their weights, to 8 bits.
BOUNDS = {"fp32": 2e-5, "bf16": 2e-2}
# A gradient of scale or bias is a sum of terms of both signs that nearly cancel.
SCALAR_FLOOR = 0.1


@dataclass(frozen=True)
class Check:
    """One loss on one backend: its errors by name, or the reason why the backend cannot do it."""

    loss: str
    device: str
    backend: str
    dtype: str
    errors: dict[str, float]
    refusal: str | None = None

    @property
    def wrong(self) -> list[str]:
        """What is further off than it may be; NaN always is."""
        return [name for name, error in self.errors.items() if not error <= BOUNDS[self.dtype]]


# A loss and its gradients by name.
Evaluated: TypeAlias = tuple[Tensor, dict[str, Tensor]]


def evaluate(loss: Callable[[Inputs], Tensor], inputs: Inputs) -> Evaluated:
    """The loss and its gradients by name; no gradients where no leaf wants one."""
    leaves = inputs.leaves
    if not leaves:
        with torch.no_grad():
            return loss(inputs), {}
    value = loss(inputs)
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def relative_error(value: Tensor, expected: Tensor, floor: float) -> float:
    """max |value - expected| over max |expected|, which counts as ``floor`` at least."""
    size = expected.abs().max().clamp(min=floor)
    return float((value.double() - expected).abs().max() / size)


def errors_of(found: Evaluated, expected: Evaluated) -> dict[str, float]:
    """The relative errors of a loss and its gradients, by name."""
    errors = {"loss": relative_error(found[0], expected[0], floor=1.0)}
    for name, truth in expected[1].items():
        floor = 0.0 if truth.dim() else SCALAR_FLOOR
        errors[f"gradient of {name}"] = relative_error(found[1][name], truth, floor)
    return errors


def check(entry: LossEntry, device: torch.device, backend: str, dtype: str) -> Check:
    """Loss and gradients, of embeddings and parameters, on ``device``; the formula on the CPU."""

    def inputs(place: torch.device | str) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        return entry.make_inputs(
            ROWS, SIZE, DTYPES[dtype], place, generator=generator, learned=True
        )

    expected = evaluate(entry.formula, inputs("cpu").double())
    worst: dict[str, float] = {}
    for workspace in WORKSPACES:
        loss = partial(entry.compute, backend=backend, workspace=workspace)
        try:
            with unadvised():
                value, gradients = evaluate(loss, inputs(device))
        except InputError as error:
            _, refuses, reason = str(error).partition(f"{backend!r} cannot compute this: ")
            if not refuses:
                raise
            return Check(entry.name, str(device), backend, dtype, {}, reason)
        found = value.cpu(), {name: gradient.cpu() for name, gradient in gradients.items()}
        for name, off in errors_of(found, expected).items():
            # Not max(), which may lose a NaN.
            if math.isnan(off) or off > worst.get(name, -1.0):
                worst[name] = off
    return Check(entry.name, str(device), backend, dtype, worst)


def run(device: str | None = None, backend: str | None = None) -> int:
    """Prints a table of all losses, dtypes, devices and backends, or of those that are named.

    Returns:
        1 if a loss is wrong or none of the backends computed it, else 0.

    Raises:
        InputError: no such device or backend here.
    """
    places = [d for d in devices() if device in (None, str(d), d.type)]
    names = [known.name for known in BACKENDS if backend in (None, known.name)]
    for asked, found, known in (
        (device, places, map(str, devices())),
        (backend, names, (each.name for each in BACKENDS)),
    ):
        if not found:
            raise InputError(f"verify: {asked!r} is not one of {', '.join(known)}")
    print(f"  {'device':8}{'backend':11}{'dtype':7}{'loss':20}{'loss off':>9}{'gradients':>11}")
    done = []
    for place, name, dtype, entry in product(places, names, DTYPES, LOSSES.values()):
        done.append(check(entry, place, name, dtype))
        if done[-1].refusal is None:
            print(line(done[-1]), flush=True)
    refused = [f"{c.backend} on {c.device}: {c.refusal}" for c in done if c.refusal is not None]
    for reason in dict.fromkeys(refused):
        print(f"  not computed by {reason}")
    computed = [each for each in done if each.refusal is None]
    wrong = [each for each in computed if each.wrong]
    print(f"{len(computed) - len(wrong)} of {len(computed)} agree with the formula in fp64")
    missing = LOSSES.keys() - {each.loss for each in computed}
    return 1 if wrong or missing else 0


def line(check: Check) -> str:
    """One row of the table."""
    errors = dict(check.errors)
    loss = errors.pop("loss")
    worst = max(errors.values())
    verdict = f"WRONG: {', '.join(check.wrong)}" if check.wrong else "ok"
    return (
        f"  {check.device:8}{check.backend:11}{check.dtype:7}{check.loss:20}"
        f"{loss:9.1e}{worst:11.1e}  {verdict}"
    )
