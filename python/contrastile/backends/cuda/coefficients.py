"""The coefficients of G from the upstream gradients, and the power of two that G is stored with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.run import Run
from ...engine.vectors import ChannelVectors
from .machine import Launcher
from .sums import LogSums, address

# Warps that look for the largest gradients of a vector: whole thread blocks of 8, enough of them
# for long vectors, few enough for every warp that wants the unit to read what they found.
WARPS = 8, 512
WARP = 32


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Of each reduction: coefficients of rows, their shifts, those of columns, theirs."""

    vectors: list[tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]]
    unit: Tensor


@dataclass(frozen=True, eq=False)
class Entry:
    """An upstream gradient, and of a channel where to find log-sum-exps and shifts."""

    grad: Tensor
    factor: float
    bits: Tensor | None
    shifts: Tensor | None
    out: Tensor | None

    def addresses(self) -> tuple[int, int, float, int, int, int]:
        """As the kernels take it."""
        own = address(self.bits), address(self.shifts), address(self.out)
        return self.grad.data_ptr(), len(self.grad), self.factor, *own


def form(launcher: Launcher, run: Run, rows: LogSums | None, cols: LogSums | None) -> Coefficients:
    """All multiplied by the unit."""
    entries: list[Entry] = []
    vectors = []
    for position, own in enumerate(run.vectors):
        channel = isinstance(own, ChannelVectors)
        sides: list[tuple[Tensor | None, Tensor | None]] = []
        for grad, sums in ((own.upstream.rows, rows), (own.upstream.cols, cols)):
            entry = _entry(grad, own.reduction.factor, sums if channel else None, position)
            if entry is not None:
                entries.append(entry)
            sides.append((None, None) if entry is None else (entry.out, entry.shifts))
        if run.problem.triangle:
            sides[1] = sides[0]
        vectors.append((*sides[0], *sides[1]))
    if run.positive_grad is not None:
        entries.append(Entry(run.positive_grad, 1.0, None, None, None))
    device = run.problem.device
    longest = max(len(entry.grad) for entry in entries)
    warps = min(max(-(-longest // (WARP * WARPS[0])) * WARPS[0], WARPS[0]), WARPS[1])
    parts = torch.empty((len(entries), warps), dtype=torch.float32, device=device)
    unit = torch.empty((), dtype=torch.float64, device=device)
    launcher.kernels.form(
        launcher.target,
        [entry.addresses() for entry in entries],
        run.problem.triangle,
        parts.data_ptr(),
        warps,
        unit.data_ptr(),
    )
    return Coefficients(vectors, unit)


def _entry(grad: Tensor | None, factor: float, sums: LogSums | None, position: int) -> Entry | None:
    if grad is None:
        return None
    grad = grad.resolve_neg().contiguous()
    bits, shifts = (None, None) if sums is None else (sums.bits[position], sums.shifts[position])
    return Entry(grad, factor, bits, shifts, torch.empty_like(grad))
