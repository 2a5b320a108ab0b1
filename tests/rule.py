"""The error rule as a statement about averages: is one error larger than another, or luck?

A draw gives one squared error an output. Their mean over the draws is estimated twice, for the
code under test and for the plain formula, and the ratio of the two roots is judged by what the
plain formula's own draws scatter: under the rule both are estimates of one number. CERTAIN
standard errors of the logarithm of the ratio are granted, no more; what that lets pass is told by
``Verdict.interval``, and shrinks as one over the root of the number of draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from helpers import Arguments, Results
from torch import Tensor

# One comparison in 30,000 fails by chance where both errors are equally large; most of ours are
# far smaller than the plain formula's.
CERTAIN = 4.0

# Of the result, halves of an ulp: stats are rounded once, and the formula over them rounds again.
ROUNDINGS = 2

# One squared error of each draw, from that draw's errors and the exact values.
Statistic = Callable[[Tensor], Tensor]
STATISTICS: dict[str, Statistic] = {
    "root mean square": lambda error: error.square().mean(),
    "largest": lambda error: error.square().amax(),
}


@dataclass(frozen=True)
class Verdict:
    """The ratio of our error to the plain formula's, its standard error and what is allowed."""

    what: str
    ours: float
    plain: float
    rounding: float
    spread: float
    share: float

    @property
    def interval(self) -> tuple[float, float]:
        """The ratio of the two errors, CERTAIN standard errors either way."""
        ratio = self.ours / self.plain if self.plain else math.inf
        factor = math.exp(CERTAIN * self.spread)
        return ratio / factor, ratio * factor

    @property
    def holds(self) -> bool:
        """Whether chance and the rounding of the result explain what is beyond the share."""
        return (
            self.ours <= self.share * self.plain * math.exp(CERTAIN * self.spread) + self.rounding
        )

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.what}: error {self.ours:.3g}, plain formula {self.plain:.3g}, ratio "
            f"{low:.2f} to {high:.2f} where {self.share:.2f} is allowed, and {self.rounding:.3g}"
        )


def judge(
    what: str,
    ours: Sequence[Tensor],
    plain: Sequence[Tensor],
    exact: Sequence[Tensor],
    share: float = 1.0,
    unknown: float = 0.0,
) -> list[Verdict]:
    """Verdicts on one output. Draw i of ``ours`` is draw i of ``plain`` and ``exact``, which may
    have more. ``unknown``: how well the truth is known.
    """
    verdicts = []
    for name, statistic in STATISTICS.items():
        if name == "largest" and exact[0].numel() == 1:
            continue
        mine = _each(statistic, ours, exact)
        # Where the plain formula overflows, any finite number is nearer.
        theirs = _each(statistic, plain, exact).nan_to_num(math.inf, math.inf)
        size = _each(statistic, [torch.zeros_like(e) for e in exact], exact).mean().sqrt().item()
        mean = theirs.mean().item()
        scatter = (theirs.std() / mean).item() if 0.0 < mean < math.inf else 0.0
        spread = 0.5 * scatter * math.sqrt(1 / len(mine) + 1 / len(theirs))
        verdicts.append(
            Verdict(
                f"{what}, {name}",
                mine.mean().sqrt().item(),
                math.sqrt(mean),
                ROUNDINGS * torch.finfo(ours[0].dtype).eps / 2 * size + unknown,
                spread,
                share,
            )
        )
    return verdicts


def pooled(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict on several settings of one output, each in units of its own allowance."""
    units = [v.share * v.plain + v.rounding or 1.0 for v in verdicts]
    ours = math.sqrt(
        sum((v.ours / u) ** 2 for v, u in zip(verdicts, units, strict=True)) / len(units)
    )
    spread = math.sqrt(sum(v.spread**2 for v in verdicts)) / len(verdicts)
    return Verdict(f"{verdicts[0].what}, all settings", ours, 1.0, 0.0, spread, 1.0)


def _each(statistic: Statistic, got: Sequence[Tensor], exact: Sequence[Tensor]) -> Tensor:
    pairs = zip(got, exact, strict=False)
    return torch.stack([statistic(value.double() - truth.double()) for value, truth in pairs])


def transposed(results: Sequence[Results]) -> dict[str, list[Tensor]]:
    """By output, then by draw."""
    return {name: [result[name] for result in results] for name in results[0]}


__all__ = ["Arguments", "Verdict", "judge", "pooled", "transposed"]
