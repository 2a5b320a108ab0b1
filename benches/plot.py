"""Time and memory against batch size."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .cases import MIB
from .results import Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(results: Results, folder: Path) -> list[Path]:
    """Draws one PNG for each loss that was measured at several batch sizes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for title, curves in sweeps(results).items():
        figure, (time, memory) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        _draw(time, curves, lambda row: row.ms, "milliseconds")
        _draw(memory, curves, lambda row: _peak(row) / MIB, "peak extra MiB")
        time.legend(frameon=False, fontsize="small")
        figure.suptitle(f"{title}   ({machine(results)})", fontsize="medium")
        file = folder / f"{re.sub('[^a-zA-Z0-9_]+', '-', title)}.png"
        figure.savefig(file, dpi=160)
        pyplot.close(figure)
        written.append(file)
    return written


def sweeps(results: Results) -> dict[str, dict[str, list[Row]]]:
    """Rows that differ in batch size alone, by title and provider; two sizes at least."""
    found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(results.rows, key=lambda row: row.n):
        if row.n == row.m:
            found[f"{row.loss} {row.mode} D={row.d} {row.dtype}"][row.provider].append(row)
    return {
        title: curves
        for title, curves in found.items()
        if len({row.n for rows in curves.values() for row in rows}) > 1
    }


def machine(results: Results) -> str:
    facts = results.environment
    return f"{facts['cpu']}, {facts['threads']} threads"


def _draw(
    axes: Axes, curves: dict[str, list[Row]], value: Callable[[Row], float], unit: str
) -> None:
    for provider, rows in curves.items():
        own = provider.startswith("contrastile")
        axes.plot(
            [row.n for row in rows],
            [value(row) for row in rows],
            marker="o",
            markersize=3.5,
            linewidth=2.2 if own else 1.2,
            zorder=3 if own else 2,
            label=provider,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = sorted({row.n for rows in curves.values() for row in rows})
    axes.set_xticks(sizes, labels=[f"{n:,}" for n in sizes])
    axes.set_xlabel("N, rows of the score matrix")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.25)


def _peak(row: Row) -> float:
    """Compiled code is only seen in physical memory; nothing seen is left out of the plot."""
    seen = row.resident_bytes if row.peak_bytes is None else row.peak_bytes
    return float("nan") if seen is None else seen
