"""Tables for the terminal: by rich where it is installed, plain otherwise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from .cases import MIB
from .results import Results, Row

WIDTH = 160
HEADINGS = (
    *("case", "provider", "ms", "p20", "p80"),
    *("peak MiB", "largest", "resident", "% roof", "x naive", "error"),
)
TEXT_COLUMNS = {"case", "provider", "reason", "target", "measured"}


def show_results(results: Results) -> None:
    """Prints the environment, all rows and what was left out."""
    print(", ".join(f"{name} {value}" for name, value in results.environment.items()))
    show("", HEADINGS, [cells(row) for row in results.rows])
    if results.skipped:
        skipped = [(skip.provider, skip.case, skip.reason) for skip in results.skipped]
        show("not timed", ("provider", "case", "reason"), skipped)


def cells(row: Row) -> tuple[str, ...]:
    errors = [e for e in (row.loss_error, row.gradient_error) if e is not None]
    return (
        str(row.case),
        row.provider,
        *(f"{ms:.4g}" for ms in (row.ms, row.ms_p20, row.ms_p80)),
        *(mebibytes(b) for b in (row.peak_bytes, row.largest_bytes, row.resident_bytes)),
        f"{100 * row.roof_share:.1f}",
        "" if row.times_naive is None else f"{row.times_naive:.2f}",
        f"{max(errors):.0e}",
    )


def mebibytes(size: int | None) -> str:
    return "" if size is None else f"{size / MIB:.4g}"


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints one table; numbers are aligned to the right."""
    if find_spec("rich"):
        _show_rich(title, headings, rows)
    else:
        _show_plain(title, headings, rows)


def _show_rich(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for heading in headings:
        left = heading in TEXT_COLUMNS
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "reason")
    for row in rows:
        table.add_row(*row)
    # Away from a terminal rich assumes 80 columns and cuts cells.
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table, markup=False)


def _show_plain(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    left = [heading in TEXT_COLUMNS for heading in headings]
    if title:
        print(title)
    for line in (headings, *rows):
        padded = (
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, left, strict=True)
        )
        print("  ".join(padded).rstrip())
