"""The power of two that fits the weights G into half precision."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.run import Run

# unit |G| stays below 2^14: fp16 ends at 2^16, and its smallest normal number is 2^-14.
TOP = 14.0
# Upstream gradients near the smallest fp32 would ask for a unit that fp32 does not have.
LARGEST = 126.0


def unit_of(run: Run) -> Tensor | None:
    """A 0-d power of two, or None where G has the range of fp32.

    Every weight is at most the sum of the largest upstream gradients: a power over its sum, and
    phi' of a pair sum, are at most 1.
    """
    problem = run.problem
    if run.operand_dtype == problem.dtype:
        return None
    sides = 2.0 if problem.triangle else 1.0
    largest = torch.zeros((), dtype=torch.float64, device=problem.device)
    for vectors in run.vectors:
        for grad in vectors.upstream:
            largest = largest + sides * abs(vectors.reduction.factor) * grad.abs().max()
    if run.positive_grad is not None:
        largest = largest + sides * run.positive_grad.abs().max()
    unit = torch.exp2((TOP - torch.ceil(torch.log2(largest))).clamp(max=LARGEST))
    usable = torch.isfinite(largest) & (largest > 0)
    return torch.where(usable, unit, 1.0).to(problem.dtype)
