"""The coefficients of G from the upstream gradients, and the power of two that G is stored with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.run import Run
from ...engine.vectors import ChannelVectors
from .sums import LogSums

# unit |G| stays below 2^14: fp16 ends at 2^16, and its smallest normal number is 2^-14.
TOP = 14.0
# Upstream gradients near the smallest fp32 would ask for a unit that fp32 does not have.
LARGEST = 126.0


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Of each reduction: coefficients of rows, their shifts, those of columns, theirs."""

    vectors: list[tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]]
    unit: Tensor


def form(run: Run, rows: LogSums | None, cols: LogSums | None) -> Coefficients:
    """All multiplied by the unit."""
    unit = _unit(run)
    vectors = []
    for position, own in enumerate(run.vectors):
        channel = isinstance(own, ChannelVectors)
        of_rows, of_cols = (
            _one(getattr(own.upstream, name), own.reduction.factor, unit, sums, position, channel)
            for name, sums in (("rows", rows), ("cols", cols))
        )
        if run.problem.triangle:
            of_cols = of_rows
        vectors.append((*of_rows, *of_cols))
    return Coefficients(vectors, unit)


def _one(
    grad: Tensor | None,
    factor: float,
    unit: Tensor,
    sums: LogSums | None,
    position: int,
    channel: bool,
) -> tuple[Tensor | None, Tensor | None]:
    if grad is None:
        return None, None
    value = grad.double() * factor * unit
    if not channel:
        return value.float(), None
    assert sums is not None
    bits, tops = sums.bits[position], sums.shifts[position]
    # An empty row has no weight, whatever its gradient is.
    value = torch.where(bits == -torch.inf, 0.0, value * torch.exp2(tops.double() - bits))
    return value.float(), tops.contiguous()


def _unit(run: Run) -> Tensor:
    """As contrastile.triton_kernels.upstream: every weight is at most the sum of the largest
    upstream gradients, twice that where rows count as columns too.
    """
    given = [
        grad * own.reduction.factor
        for own in run.vectors
        for grad in (own.upstream.rows, own.upstream.cols)
        if grad is not None
    ]
    if run.positive_grad is not None:
        given.append(run.positive_grad)
    largest = torch.stack([_largest(grad) for grad in given]).sum()
    if run.problem.triangle:
        largest = largest * 2
    usable = (largest > 0) & (largest < torch.inf)
    exponent = TOP - torch.ceil(torch.log2(torch.where(usable, largest, 1.0)))
    return torch.where(usable, torch.exp2(exponent.clamp(max=LARGEST)), 1.0)


def _largest(grad: Tensor) -> Tensor:
    """Largest finite magnitude: what is none spoils its own row, not the unit of all."""
    size = grad.abs()
    return torch.where(size < torch.inf, size, 0.0).amax().double()
