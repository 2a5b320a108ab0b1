"""Partial sums added up, and the stats made of the totals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...engine.fixed_shift import REACH, SMALLEST
from ...problem.spec import Stat
from ..gpu.forms import Form
from ..gpu.memory import Side
from .machine import Launcher


@dataclass(frozen=True, eq=False)
class Partials:
    """Of one side of a block: sums [stats, tiles, length], in the general form with shifts."""

    sums: Tensor
    tops: Tensor | None


def add(
    launcher: Launcher, side: Side, partials: Partials, span: slice, form: Form, flag: Tensor | None
) -> None:
    """Onto the entries ``span``; nothing if the flag says that the other form holds."""
    tops = partials.tops
    totals = side.totals if tops is None else side.general
    own = [] if tops is None else [top[span] for top in side.tops]
    merge(launcher, form, partials, flag, [total[span] for total in totals], own)


def certify(
    launcher: Launcher, stats: Sequence[Stat], side: Side, terms: int, spans: Tensor, flag: Tensor
) -> None:
    """Set the flag if the fixed shift of any log-sum-exp cost precision."""
    launcher.kernels.certify(
        launcher.target,
        addresses(side.totals),
        side.length,
        terms * SMALLEST,
        2 * REACH,
        spans.data_ptr(),
        [stat.may_keep_none for stat in stats],
        flag.data_ptr(),
    )


def settle(launcher: Launcher, side: Side, shifts: Tensor, flag: Tensor | None) -> None:
    """Log-sum-exps of the form that holds: the flag says, or there is no fixed one (``flag`` is
    None). The shift that a sum had takes the place of the general form's.
    """
    for place, (bits, tops, stats) in enumerate(zip(side.bits, side.tops, side.stats, strict=True)):
        own = slice(place, place + 1)
        launcher.kernels.settle(
            launcher.target,
            side.length,
            address(flag),
            addresses(side.totals[own]),
            shifts[own].data_ptr(),
            addresses(side.general[own]),
            [tops.data_ptr()],
            bits.data_ptr(),
            tops.data_ptr(),
            [stats.data_ptr()],
        )


def merge(
    launcher: Launcher,
    form: Form,
    partials: Partials,
    flag: Tensor | None,
    totals: Sequence[Tensor],
    tops: Sequence[Tensor],
    unit: Tensor | None = None,
) -> None:
    """totals += sum over tiles of partial sums / ``unit``; above ``tops`` if these have shifts."""
    tiles, length = partials.sums.shape[1:]
    launcher.kernels.merge(
        launcher.target,
        getattr(launcher.kernels.Form, form.value),
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


def addresses(tensors: Sequence[Tensor]) -> list[int]:
    """Of each one's first number."""
    return [tensor.data_ptr() for tensor in tensors]
