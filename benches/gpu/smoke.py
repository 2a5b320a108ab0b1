"""The section ``smoke``: in seconds, whether bf16 clip_loss is right at all."""

from __future__ import annotations

from functools import partial

from .errors import Rule, Shape, judge_as_row
from .record import FAIL, Outcome
from .settings import Settings

# The kernels of the first cells that are timed: found in Triton's cache there.
SHAPE = Shape(4096, 512)
SCALE, DRAWS = 14.3, 4


def smoke_section(settings: Settings, shape: Shape = SHAPE) -> Outcome:
    """Loss and gradients against fp64: no further off than the plain formula in bf16."""
    rule = Rule(
        "clip_loss",
        "bf16",
        shape,
        (SCALE,),
        draws=DRAWS,
        device=settings.device,
        backend=settings.backend,
    )
    row = settings.cell(str(rule), partial(judge_as_row, rule))
    if row is None:
        return Outcome(FAIL, reason="no time was left")
    if "error" in row:
        return Outcome.of([row["error"]], {})
    wrong = [f"{bad['share']:.3g}x for {bad['what']}" for bad in row["beyond"]]
    return Outcome.of(wrong, {"case": str(rule), "worst share": row["share"]})
