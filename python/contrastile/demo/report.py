"""The results as a table in the terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .results import PROMISE, Results, Side

MIB = 2**20
ABSENT = "-"


def show(results: Results, console: Console) -> None:
    """Prints the table, what it means, and where the files are."""
    console.print(_table(results))
    if results.differences:
        console.print(_agreement(max(results.differences)))
    # A terminal that cannot show a tick cannot show the glyphs either.
    if results.samples and console.encoding.startswith("utf"):
        console.print(_samples(results))
    folder = escape(str(results.options.out))
    console.print(f"Wrote demo.png and results.json to [bold]{folder}[/]")


def _table(results: Results) -> Table:
    options = results.options
    title = f"{options.loss}, {options.batches}, {results.steps} of {options.steps} steps"
    if results.interrupted:
        title += " [bold yellow](interrupted)[/]"
    table = Table(title=title, box=SIMPLE, title_style="bold")
    table.add_column()
    for name in results.sides:
        table.add_column(name, justify="right", style="bold" if name == "contrastile" else "")
    rows: dict[str, Callable[[Side], str]] = {
        "last loss": lambda side: f"{side.losses[-1]:.6f}",
        "R@1, unseen font": lambda side: f"{side.recall[1]:.1%}",
        "R@10, unseen font": lambda side: f"{side.recall[10]:.1%}",
        "seconds in the loss": lambda side: f"{side.loss_seconds:.1f}",
        "seconds of training": lambda side: f"{side.seconds:.1f}",
    }
    for label, cell in rows.items():
        sides = results.sides.values()
        table.add_row(label, *(cell(side) if side.losses else ABSENT for side in sides))
    for batch in _measured(results):
        cells = (f"{side.peak_bytes[batch] / MIB:.1f}" for side in results.sides.values())
        table.add_row(f"peak MiB of the loss, batch {batch}", *cells)
    return table


def _measured(results: Results) -> list[int]:
    """The batch size of the training and the largest, of those all sides were measured at."""
    sizes = set.intersection(*(set(side.peak_bytes) for side in results.sides.values()))
    return sorted(sizes & {results.options.compared, max(sizes, default=0)})


def _agreement(difference: float) -> str:
    within = difference <= PROMISE
    verdict = f"[green]within the promised {PROMISE:.0e}[/]"
    if not within:
        verdict = f"[red]more than the promised {PROMISE:.0e}[/]"
    return f"The loss curves differ by at most [bold]{difference:.1e}[/]: {verdict}."


def _samples(results: Results) -> Table:
    table = Table(title="unseen glyphs and the nearest names", box=SIMPLE, show_header=False)
    for sample in results.samples:
        right = sample.retrieved == sample.name
        table.add_row(sample.character, sample.retrieved, "[green]✓[/]" if right else "[red]✗[/]")
    return table
