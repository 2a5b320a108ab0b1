"""Only what computes the loss may be timed: loss and gradients against the formula in fp64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cases import Case
from .inputs import Inputs, make_inputs
from .naive import NAIVE, LossFunction
from .providers import Provider

# Rows of a check: small enough for fp64, and no multiple of a tile.
CHECK_ROWS = 1000

# Largest error relative to the largest reference value. The half precisions leave room for
# peers that keep whole score matrices in them, where a score of 14 is off by up to 1/32.
TOLERANCE = {"fp64": 1e-9, "fp32": 2e-5, "fp16": 3e-2, "bf16": 1e-1}

# The gradient of a scale or bias is a sum of terms of both signs that nearly cancel.
SCALAR_FLOOR = 0.1


@dataclass(frozen=True)
class Verdict:
    """Errors against fp64 (None without gradients) and the first reason to refuse, if any."""

    loss_error: float
    gradient_error: float | None
    refused: str | None


def evaluate(loss: LossFunction, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its gradients by name; no gradients where no leaf wants one."""
    leaves = inputs.leaves
    if not leaves:
        with torch.no_grad():
            return loss(inputs), {}
    value = loss(inputs)
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def check(provider: Provider, case: Case) -> Verdict:
    """Compares ``provider`` with fp64 on ``case``, cut to ``CHECK_ROWS`` rows where larger."""
    case = case.resized(CHECK_ROWS)
    inputs = make_inputs(case, seed=1)
    value, gradients = evaluate(provider.build(case), inputs)
    expected, expected_gradients = evaluate(NAIVE[case.loss], inputs.double())
    errors = {
        "loss": relative_error(value, expected, floor=1.0),
        **{
            f"gradient of {name}": relative_error(
                gradients[name], reference, floor=0.0 if reference.dim() else SCALAR_FLOOR
            )
            for name, reference in expected_gradients.items()
        },
    }
    limit = TOLERANCE[case.dtype]
    # Written so that a NaN is refused.
    wrong = [f"{what} is off by {e:.1e}" for what, e in errors.items() if not e <= limit]
    loss_error = errors.pop("loss")
    return Verdict(
        loss_error,
        max(errors.values(), default=None),
        f"{'; '.join(wrong)} (limit {limit:g}) at {case}" if wrong else None,
    )


def not_finite(loss: LossFunction, inputs: Inputs) -> str | None:
    """None, or what is not finite: the sanity check of sizes too large for fp64."""
    value, gradients = evaluate(loss, inputs)
    named = {"loss": value, **{f"gradient of {n}": g for n, g in gradients.items()}}
    wrong = [name for name, tensor in named.items() if not tensor.isfinite().all()]
    return f"{', '.join(wrong)} is not finite" if wrong else None


def relative_error(value: Tensor, expected: Tensor, floor: float) -> float:
    """max |value - expected| over max |expected|, which counts as ``floor`` at least."""
    size = expected.abs().max().clamp(min=floor)
    return float((value.double() - expected).abs().max() / size)
