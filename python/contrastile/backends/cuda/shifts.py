"""Fixed shifts of channels, and bounds that prove them right.

As contrastile.triton_kernels.shift, in torch's operations; nothing waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.row_steps import LOG2E
from ...engine.run import Run
from ...engine.vectors import ChannelVectors

# 2^REACH times 2^27 terms is within fp32.
REACH = 100.0
# Beyond, a shift rounded to fp32 would be off by whole bits.
COARSE = 2.0**22
# Powers below 2^-126 may be flushed: M of them are 2^-24 of a sum of M 2^-102.
SMALLEST = 2.0**-102


def choose(run: Run, coefficients: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Each channel's shift (fp32), and how many bits its exponents may span (fp64)."""
    query, key = run.query.whole(), run.key.whole()
    # The slack covers the rounding of the dot products.
    longest = _longest(query) * _longest(key) * 1.001
    shifts, spans = [], []
    for own, coef in zip(run.vectors, coefficients, strict=True):
        assert isinstance(own, ChannelVectors)
        low, high = _bounds(own, longest * coef.double().abs().max())
        span = high - low
        far = torch.maximum(high, -low) >= COARSE
        span = torch.where(far, torch.inf, span)
        middle = torch.minimum(torch.maximum(high * 0.5, high - REACH), low + REACH)
        shifts.append(torch.where(span <= 2 * REACH, middle, high - REACH).float())
        spans.append(span)
    return torch.stack(shifts), torch.stack(spans)


def _longest(embedding: Tensor) -> Tensor:
    return torch.linalg.vector_norm(embedding, dim=1, dtype=torch.float32).amax().double()


def _bounds(own: ChannelVectors, reach: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest exponent that there can be."""
    low, high = -reach, reach
    for offset in (own.row_offset, own.col_offset):
        if offset is not None:
            low, high = low + offset.amin().double(), high + offset.amax().double()
    for weight in (w * LOG2E for _, w in own.reduction.class_log_weights):
        low, high = low + min(weight, 0.0), high + max(weight, 0.0)
    return low, high
