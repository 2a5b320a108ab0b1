"""Partial sums of blocks added up, in a fixed order, and the stats made of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.row_steps import LN2
from ...engine.run import Run
from ...engine.vectors import ChannelVectors


@dataclass(frozen=True, eq=False)
class Partials:
    """Of one side of a block: sums [reductions, tiles, length], in the general form with shifts."""

    sums: Tensor
    tops: Tensor | None


@dataclass(frozen=True, eq=False)
class Raised:
    """Sums (fp64) above a shift of their own (fp32), of the general form."""

    totals: Tensor
    tops: Tensor

    @staticmethod
    def of(count: int, length: int, device: torch.device) -> Raised:
        """Of nothing yet."""
        totals = torch.zeros((count, length), dtype=torch.float64, device=device)
        return Raised(totals, torch.full((count, length), -torch.inf, device=device))

    def add(self, partials: Partials, span: slice) -> None:
        """2^tops totals += sum over tiles of 2^t parts, of the entries ``span``."""
        assert partials.tops is not None
        totals, tops = self.totals[:, span], self.tops[:, span]
        raised = torch.maximum(tops, partials.tops.amax(1))
        base = torch.where(raised == -torch.inf, 0.0, raised)
        parts = partials.sums * torch.exp2(partials.tops - base[:, None])
        totals.mul_(torch.exp2(tops - base)).add_(parts.sum(1, dtype=torch.float64))
        tops.copy_(raised)


@dataclass(frozen=True, eq=False)
class LogSums:
    """Of one side and each channel: log-sum-exps in bits (fp64), and the shifts their sums had."""

    bits: Tensor
    shifts: Tensor


def log_sums(raised: Raised, fixed: Tensor, shifts: Tensor, flag: Tensor | None) -> LogSums:
    """Of the form that holds: the flag says, or there is no fixed one (``flag`` is None)."""
    if flag is None:
        return LogSums(_bits(raised.totals, raised.tops), raised.tops)
    own = shifts[:, None].expand_as(raised.tops)
    tops = torch.where(flag != 0, raised.tops, own)
    totals = torch.where(flag != 0, raised.totals, fixed)
    return LogSums(_bits(totals, tops), tops)


def _bits(totals: Tensor, shifts: Tensor) -> Tensor:
    return torch.where(totals == 0.0, -torch.inf, totals.log2() + shifts)


def publish(run: Run, name: str, sums: LogSums) -> None:
    """Leave the stats where the engine finds them."""
    for own, bits in zip(run.vectors, sums.bits, strict=True):
        assert isinstance(own, ChannelVectors)
        setattr(own.ready, name, (bits * LN2).to(own.dtype))
