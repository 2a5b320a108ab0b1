"""From how many rows on contrastile is as fast as plain torch: read from the rows of one run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from .cases import OURS
from .results import Results, Row

# (N, time of plain torch over contrastile's), by N.
Speeds = list[tuple[int, float]]


def crossovers(results: Results) -> Iterator[str]:
    """A sentence for each loss that was measured at several sizes and is otherwise the same."""
    groups: dict[tuple[str, ...], Speeds] = {}
    for row in results.rows:
        if row.provider == OURS and row.times_naive is not None and row.m == row.n:
            groups.setdefault(_kind(row), []).append((row.n, row.times_naive))
    for kind, speeds in groups.items():
        if len(speeds) > 1:
            yield f"{', '.join(kind)}: {_sentence(sorted(speeds))}"


def _kind(row: Row) -> tuple[str, ...]:
    return row.loss, f"D = {row.d}", row.dtype, row.mode


def _sentence(speeds: Speeds) -> str:
    smallest, (largest, last) = speeds[0][0], speeds[-1]
    measured = ", ".join(f"{speed:.2f} x at N = {n}" for n, speed in speeds)
    if min(speed for _, speed in speeds) >= 1:
        found = f"faster than plain torch at every size measured, from N = {smallest} on"
    elif last < 1:
        found = f"plain torch is faster up to N = {largest}, the largest size measured"
    else:
        found = f"faster than plain torch from about N = {_crossing(speeds)} on"
    return f"{found} ({measured})"


def _crossing(speeds: Speeds) -> int:
    """N where the speed is 1 for the last time, on a straight line between logarithms."""
    below, above = [pair for pair in pairwise(speeds) if pair[0][1] < 1 <= pair[1][1]][-1]
    (n, slow), (m, fast) = below, above
    share = math.log(1 / slow) / math.log(fast / slow)
    return 10 * round(n * (m / n) ** share / 10)
