"""The vectors that partial sums are added up in, and the stats made of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.run import Run
from ...engine.vectors import ChannelVectors
from ..labels import may_keep_none
from .machine import Launcher
from .shifts import REACH, SMALLEST


@dataclass(frozen=True, eq=False)
class Partials:
    """Of one side of a block: sums [reductions, tiles, length], in the general form with shifts."""

    sums: Tensor
    tops: Tensor | None


@dataclass(frozen=True, eq=False)
class LogSums:
    """Of one side and each channel: log-sum-exps in bits (fp64), and the shifts their sums had."""

    bits: Tensor
    shifts: Tensor


class SideSums:
    """Of one side, a vector of each reduction: the engine's own sums (fp64) and, of channels, the
    general form's (fp64) above a shift of their own (fp32).
    """

    def __init__(self, launcher: Launcher, run: Run, name: str, length: int) -> None:
        self.launcher = launcher
        self.vectors, self.name, self.length = run.vectors, name, length
        self.sums: list[Tensor] = [getattr(own.sums, name) for own in run.vectors]
        self.raised: list[Tensor] = []
        self.tops: list[Tensor] = []
        if isinstance(run.vectors[0], ChannelVectors):
            device, shape = run.problem.device, (len(run.vectors), length)
            self.raised = list(torch.zeros(shape, dtype=torch.float64, device=device))
            self.tops = list(torch.full(shape, -torch.inf, dtype=torch.float32, device=device))

    def add(self, partials: Partials, span: slice, form: str, flag: Tensor | None) -> None:
        """Onto the entries ``span``; nothing if the flag says that the other form holds."""
        totals = self.sums if partials.tops is None else self.raised
        merge(
            self.launcher,
            form,
            partials,
            flag,
            [total[span] for total in totals],
            [] if partials.tops is None else [top[span] for top in self.tops],
        )

    def certify(self, spans: Tensor, terms: int, flag: Tensor) -> None:
        """Set the flag if the fixed shift of any channel cost precision."""
        empty = [may_keep_none(own.reduction.pairs) for own in self.vectors]
        self.launcher.kernels.certify(
            self.launcher.target,
            addresses(self.sums),
            self.length,
            terms * SMALLEST,
            2 * REACH,
            spans.data_ptr(),
            empty,
            flag.data_ptr(),
        )

    def settle(self, shifts: Tensor, flag: Tensor | None) -> LogSums:
        """Of the form that holds: the flag says, or there is no fixed one (``flag`` is None). The
        stats are left where the engine finds them.
        """
        shape, device = (len(self.vectors), self.length), shifts.device
        bits = torch.empty(shape, dtype=torch.float64, device=device)
        own_shifts = torch.empty(shape, dtype=torch.float32, device=device)
        # Each of its own: autograd refuses to change views of one tensor in place.
        logs = [torch.empty(self.length, dtype=torch.float32, device=device) for _ in self.vectors]
        self.launcher.kernels.settle(
            self.launcher.target,
            self.length,
            address(flag),
            addresses(self.sums),
            shifts.data_ptr(),
            addresses(self.raised),
            addresses(self.tops),
            bits.data_ptr(),
            own_shifts.data_ptr(),
            addresses(logs),
        )
        for own, log in zip(self.vectors, logs, strict=True):
            assert isinstance(own, ChannelVectors)
            setattr(own.ready, self.name, log)
        return LogSums(bits, own_shifts)


def merge(
    launcher: Launcher,
    form: str,
    partials: Partials,
    flag: Tensor | None,
    totals: list[Tensor],
    tops: list[Tensor],
    unit: Tensor | None = None,
) -> None:
    """totals += sum over tiles of partial sums / ``unit``; above ``tops`` if these have shifts."""
    tiles, length = partials.sums.shape[1:]
    launcher.kernels.merge(
        launcher.target,
        getattr(launcher.kernels.Form, form),
        partials.sums.data_ptr(),
        address(partials.tops),
        tiles,
        length,
        address(flag),
        address(unit),
        addresses(totals),
        addresses(tops),
    )


def address(tensor: Tensor | None) -> int:
    """Of its first number; 0 of none."""
    return 0 if tensor is None else tensor.data_ptr()


def addresses(tensors: list[Tensor]) -> list[int]:
    """Of each one's first number."""
    return [tensor.data_ptr() for tensor in tensors]
