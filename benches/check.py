"""Only what computes the loss may be timed: loss and gradients against the formula in fp64."""

from __future__ import annotations

from dataclasses import dataclass

from contrastile.losses.inputs import Inputs
from contrastile.verify import errors_of, evaluate

from .cases import Case
from .inputs import make_inputs
from .naive import NAIVE, LossFunction
from .providers import Provider

# Rows of a check: small enough for fp64, and no multiple of a tile.
CHECK_ROWS = 1000

# Largest error relative to the largest reference value. The half precisions leave room for
# peers that keep whole score matrices in them, where a score of 14 is off by up to 1/32.
TOLERANCE = {"fp64": 1e-9, "fp32": 2e-5, "fp16": 3e-2, "bf16": 1e-1}


@dataclass(frozen=True)
class Verdict:
    """Errors against fp64 (None without gradients) and the first reason to refuse, if any."""

    loss_error: float
    gradient_error: float | None
    refused: str | None


def check(provider: Provider, case: Case) -> Verdict:
    """Compares ``provider`` with fp64 on ``case``, cut to ``CHECK_ROWS`` rows where larger."""
    case = case.resized(CHECK_ROWS)
    inputs = make_inputs(case, seed=1)
    found = evaluate(provider.build(case), inputs)
    errors = errors_of(found, evaluate(NAIVE[case.loss], inputs.double()))
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
