"""The results as a picture."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, NullLocator

from .data import Glyphs
from .results import PROMISE, Results

COLOURS = {"dense": "#94a3b8", "contrastile": "#be185d"}
LABELS = {"dense": "dense, plain torch", "contrastile": "Contrastile"}
# The wide line shows on both sides of the narrow one where the two coincide.
WIDTHS = {"dense": 5.0, "contrastile": 1.5}
INK, RIGHT, WRONG = "#334155", "#15803d", "#b45309"
SMALLEST_DIFFERENCE = 1e-8
KIB, MIB, GIB = 2**10, 2**20, 2**30


def draw(results: Results, glyphs: Glyphs, file: Path) -> None:
    """Loss curves and their difference, memory against batch size, and some glyphs, as PNG."""
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[3, 1], hspace=0.04)
    top, bottom = parts[:, 0]
    rows = [["loss", "memory"], ["difference", "memory"]]
    axes = top.subplot_mosaic(rows, height_ratios=[2.6, 1])
    _draw_loss(axes["loss"], results)
    _draw_differences(axes["difference"], results)
    _draw_memory(axes["memory"], results)
    _draw_samples(bottom, results, glyphs)
    figure.savefig(file, dpi=160)


def _draw_loss(axes: Axes, results: Results) -> None:
    for name, side in results.sides.items():
        axes.plot(_steps(side.losses), side.losses, **_line(name))
    _title(axes, f"{results.options.loss} loss, batch {results.options.compared}")
    axes.legend(frameon=False, labelcolor=INK)


def _draw_differences(axes: Axes, results: Results) -> None:
    differences = [max(d, SMALLEST_DIFFERENCE) for d in results.differences]
    axes.plot(_steps(differences), differences, color=INK, linewidth=0.8)
    axes.axhline(PROMISE, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yscale("log")
    axes.set_ylim(SMALLEST_DIFFERENCE, 100 * PROMISE)
    axes.annotate("promised bound", (1, PROMISE), (3, 3), textcoords="offset points", color=INK)
    axes.set_xlabel("step", color=INK)
    _title(axes, "difference of the two curves")


def _draw_memory(axes: Axes, results: Results) -> None:
    for name, side in results.sides.items():
        sizes, peaks = list(side.peak_bytes), list(side.peak_bytes.values())
        line = _line(name) | {"linewidth": 2, "marker": "o"}
        axes.plot(sizes, peaks, **line)
        if sizes:
            axes.annotate(
                f"{LABELS[name]}\n{_bytes(peaks[-1])}",
                (sizes[-1], peaks[-1]),
                (6, 8),
                textcoords="offset points",
                color=COLOURS[name],
                ha="right",
                weight="bold",
            )
    axes.margins(y=0.15)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sorted({size for side in results.sides.values() for size in side.peak_bytes}))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda size, _: _bytes(size)))
    axes.set_xlabel("batch size\n(scores are kept as far as they fit the workspace)", color=INK)
    _title(axes, "peak memory of the loss, forward and backward")


def _draw_samples(part: SubFigure, results: Results, glyphs: Glyphs) -> None:
    if not results.samples:
        return
    title = "glyphs in an unseen font, and the nearest of all names"
    part.suptitle(title, x=0.06, ha="left", color=INK, fontsize="medium", weight="bold")
    for axes, sample in zip(part.subplots(1, len(results.samples)), results.samples, strict=True):
        image = glyphs.unseen[glyphs.characters.index(sample.character), 0]
        axes.imshow(image.numpy(force=True), cmap="gray_r", interpolation="nearest")
        axes.set_axis_off()
        right = sample.retrieved == sample.name
        caption = fill(f"{sample.retrieved}\N{NO-BREAK SPACE}{'✓' if right else '✗'}", 18)
        axes.set_title(caption, y=-0.06, va="top", fontsize=7, color=RIGHT if right else WRONG)


def _line(name: str) -> dict[str, Any]:
    return {"color": COLOURS[name], "label": LABELS[name], "linewidth": WIDTHS[name]}


def _steps(values: list[float]) -> range:
    return range(1, len(values) + 1)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", color=INK, fontsize="medium", weight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    axes.grid(color="#e2e8f0", linewidth=0.7)
    axes.set_axisbelow(True)


def _bytes(size: float) -> str:
    if size >= GIB:
        return f"{size / GIB:.3g} GiB"
    return f"{size / MIB:.3g} MiB" if size >= MIB else f"{size / KIB:.3g} KiB"
