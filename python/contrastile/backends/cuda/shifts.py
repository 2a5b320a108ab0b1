"""Fixed shifts of log-sum-exps, and bounds that prove them right.

As contrastile.triton_kernels.shift, in torch's operations; nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...engine.arguments import Argument
from ...engine.fixed_shift import COARSE, REACH
from ...engine.job import Job
from ...engine.row_steps import LOG2E
from ...problem.spec import Stat


def choose(job: Job, coefficients: Sequence[Tensor], shifts: Tensor, spans: Tensor) -> None:
    """Fill in the shift of each stat (fp32), and how many bits its exponents may span (fp64)."""
    # The slack covers the rounding of the dot products.
    longest = _longest(job.query.whole()) * _longest(job.key.whole()) * 1.001
    own_shifts, own_spans = [], []
    for stat, argument, coef in zip(job.spec.stats, job.arguments, coefficients, strict=True):
        low, high = _bounds(stat, argument, longest * coef.double().abs().max())
        span = high - low
        far = torch.maximum(high, -low) >= COARSE
        span = torch.where(far, torch.inf, span)
        middle = torch.minimum(torch.maximum(high * 0.5, high - REACH), low + REACH)
        own_shifts.append(torch.where(span <= 2 * REACH, middle, high - REACH).float())
        own_spans.append(span)
    torch.stack(own_shifts, out=shifts)
    torch.stack(own_spans, out=spans)


def _longest(embedding: Tensor) -> Tensor:
    return torch.linalg.vector_norm(embedding, dim=1, dtype=torch.float32).amax().double()


def _bounds(stat: Stat, argument: Argument, reach: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest exponent that there can be."""
    low, high = -reach, reach
    for offset in (argument.row_offset, argument.col_offset):
        if offset is not None:
            low, high = low + offset.amin().double(), high + offset.amax().double()
    for weight in (w * LOG2E for _, w in stat.classes):
        low, high = low + min(weight, 0.0), high + max(weight, 0.0)
    return low, high
