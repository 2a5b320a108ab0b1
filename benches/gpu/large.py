"""The section ``large``: more pairs than 32 bits count, a sample of rows against fp64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .record import Outcome, Row
from .settings import Pair, Settings, pair, step

# Relative to the largest entry of the sample; half precision rounds each entry of a gradient.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-6}
LOSS_TOLERANCE = 1e-5
CHUNK_PAIRS = 2**26
GIB = 2**30


@dataclass(frozen=True)
class Large:
    """A size, and a workspace whose strips may have more entries than 32 bits count as well."""

    n: int
    d: int
    dtype: torch.dtype
    workspace: int | None = None

    def __str__(self) -> str:
        room = "" if self.workspace is None else f", workspace {self.workspace / GIB:.0f} GiB"
        return f"{self.n} x {self.d} {self.dtype}{room}".replace("torch.", "")


CASES = (
    Large(70_001, 32, torch.bfloat16),
    Large(49_157, 24, torch.bfloat16, 8 * GIB),
    Large(46_351, 16, torch.float32),
)


@dataclass(frozen=True)
class Truth:
    """In fp64: the loss, the scale's gradient, and gradients of the sampled rows of both sides."""

    loss: Tensor
    x: Tensor
    y: Tensor
    scale: Tensor


def large_section(settings: Settings, cases: Sequence[Large] = CASES, sample: int = 64) -> Outcome:
    """clip_loss, forward and backward."""
    wrong = []
    for case in cases:
        row = settings.cell(str(case), partial(compare, case, settings, sample))
        if row is not None:
            wrong += [f"{case}: {text}" for text in row.get("wrong", [row.get("error")])]
    return Outcome.of(wrong, {"cases": len(cases), "most pairs": max(c.n**2 for c in cases)})


def compare(case: Large, settings: Settings, sample: int) -> Row:
    """Errors of loss and gradients, and which are too large."""
    inputs = pair(case.n, case.d, case.dtype, settings.device)
    loss, x, y, scale = step(settings.loss(), inputs, workspace=case.workspace)
    rows = sampled(case.n, sample, settings.device)
    exact = truth(inputs, rows)
    errors = {
        "loss": relative(loss, exact.loss),
        "x": relative(x[rows], exact.x),
        "y": relative(y[rows], exact.y),
        "scale": relative(scale, exact.scale),
    }
    return {"pairs": case.n**2, **errors, "wrong": too_far(errors, case.dtype)}


def too_far(errors: Mapping[str, float], dtype: torch.dtype) -> list[str]:
    """What is off by more than it may be."""
    limits = {name: LOSS_TOLERANCE for name in ("rows", "columns", "loss")}
    # Written so that a NaN is wrong.
    return [
        f"{name} is off by {error:.2g}, allowed {limit:.2g}"
        for name, error in errors.items()
        for limit in (limits.get(name, TOLERANCE[dtype]),)
        if not error <= limit
    ]


def sampled(n: int, count: int, device: torch.device) -> Tensor:
    """Rows all over, the first and the last among them."""
    return torch.linspace(0, n - 1, min(count, n), device=device).round().long().clamp(max=n - 1)


def relative(value: Tensor, exact: Tensor) -> float:
    """The largest error over the largest exact entry."""
    return float((value.detach().double() - exact).abs().max() / exact.abs().max())


@torch.no_grad()
def truth(inputs: Pair, rows: Tensor) -> Truth:
    """clip_loss in fp64, a few rows of the scores at a time."""
    x, y, scale = inputs.x.double(), inputs.y.double(), inputs.scale.double()
    n = len(x)
    row_lse = torch.empty(n, dtype=x.dtype, device=x.device)
    col_lse = torch.full_like(row_lse, -torch.inf)
    for span in chunks(n):
        scores = scale * (x[span] @ y.T)
        row_lse[span] = scores.logsumexp(1)
        col_lse = torch.logaddexp(col_lse, scores.logsumexp(0))
    own = (x * y).sum(1)
    # d loss / d scale: the mean dot under both softmaxes, less the positive's.
    seen = torch.zeros((), dtype=x.dtype, device=x.device)
    for span in chunks(n):
        dots = x[span] @ y.T
        scores = scale * dots
        weights = (scores - row_lse[span, None]).exp() + (scores - col_lse).exp()
        seen += (weights * dots).sum()
    return Truth(
        loss=((row_lse + col_lse) / 2 - scale * own).mean(),
        x=gradient(x, y, scale, row_lse, col_lse, rows),
        y=gradient(y, x, scale, col_lse, row_lse, rows),
        scale=(seen / 2 - own.sum()) / n,
    )


def gradient(
    own: Tensor, other: Tensor, scale: Tensor, own_lse: Tensor, other_lse: Tensor, rows: Tensor
) -> Tensor:
    """Of ``rows`` of one side; the other is in fp64."""
    scores = scale * (own[rows].double() @ other.T)
    weights = (scores - own_lse[rows, None]).exp() + (scores - other_lse).exp()
    return scale / len(own) * (weights @ other / 2 - other[rows])


def chunks(n: int) -> Iterator[slice]:
    height = max(CHUNK_PAIRS // n, 1)
    return (slice(begin, min(begin + height, n)) for begin in range(0, n, height))
