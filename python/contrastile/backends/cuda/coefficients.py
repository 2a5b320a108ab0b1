"""The coefficients of G from the upstream gradients, and the power of two that G is stored with."""

from __future__ import annotations

import torch
from torch import Tensor

from ..gpu.entries import Entries, Entry
from .machine import Launcher
from .sums import address

# Warps that look for the largest gradients of a vector: whole thread blocks of 8, enough of them
# for long vectors, few enough for every warp that wants the unit to read what they found.
WARPS = 8, 512
WARP = 32

Upstream = tuple[int, int, float, int, int, int]


def form(launcher: Launcher, entries: Entries, triangle: bool) -> Tensor:
    """Fill the coefficients, all multiplied by the unit; returns that, fp64."""
    every = list(entries.each())
    grads = [entry.grad for entry in every]
    upstream = [_upstream(entry) for entry in every]
    if entries.positive is not None:
        grads.append(entries.positive)
        # The unit depends on it; it has no coefficients.
        upstream.append((entries.positive.data_ptr(), len(entries.positive), 1.0, 0, 0, 0))
    device = grads[0].device
    longest = max(map(len, grads))
    warps = min(max(-(-longest // (WARP * WARPS[0])) * WARPS[0], WARPS[0]), WARPS[1])
    parts = torch.empty((len(grads), warps), dtype=torch.float32, device=device)
    unit = torch.empty((), dtype=torch.float64, device=device)
    launcher.kernels.form(
        launcher.target, upstream, triangle, parts.data_ptr(), warps, unit.data_ptr()
    )
    return unit


def addresses_of(entries: Entries) -> list[tuple[int, int, int, int]]:
    """Of each stat: coefficients of rows, their shifts, those of columns, theirs."""
    found = []
    for rows, cols in entries.stats:
        own = [0 if e is None else address(v) for e in (rows, cols) for v in _vectors(e)]
        found.append((own[0], own[1], own[2], own[3]))
    return found


def _vectors(entry: Entry | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if entry is None else (entry.out, entry.tops)


def _upstream(entry: Entry) -> Upstream:
    own = address(entry.bits), address(entry.tops), address(entry.out)
    return entry.grad.data_ptr(), len(entry.grad), entry.factor, *own
