"""The speed and memory the project aims at, each target read from measured rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .cases import LARGE, MIB, NAIVE, OURS, SELF, SMALL, WIDTHS, Case
from .results import Results, Row

OPEN_CLIP = "open_clip"
MISSING = "not measured"


def target_table(results: Results) -> list[tuple[str, str]]:
    """(target, measured) for every target, from the rows of the suite ``targets``."""
    return [*widths(results), *self_mode(results), *small(results), *memory_law(results)]


def widths(results: Results) -> Iterator[tuple[str, str]]:
    for case in WIDTHS:
        ours = results.find(case, OURS)
        if case.dtype == "fp32":
            peer = results.find(case, OPEN_CLIP)
            yield f"{case}: share of the roof", share(ours)
            yield f"{case}: speed over open_clip", speed(ours, peer)
        else:
            exact = results.find(replace(case, dtype="fp32"), OURS)
            yield f"{case}: speed over own fp32", speed(ours, exact)


def self_mode(results: Results) -> Iterator[tuple[str, str]]:
    ours, naive = results.find(SELF, OURS), results.find(SELF, NAIVE)
    yield f"{SELF}: speed over naive", speed(ours, naive)
    yield f"{SELF}: share of the roof at 4 N^2 D flop", share(ours)


def small(results: Results) -> Iterator[tuple[str, str]]:
    for case in SMALL:
        ours, naive = results.find(case, OURS), results.find(case, NAIVE)
        yield f"{case}: speed over naive", speed(ours, naive)


def memory_law(results: Results) -> Iterator[tuple[str, str]]:
    ours = results.find(LARGE, OURS)
    bound = allowed_bytes(LARGE)
    if ours is None or ours.peak_bytes is None:
        measured = MISSING
    else:
        resident = ours.resident_bytes
        measured = f"{ours.peak_bytes / MIB:.1f} MiB" + (
            "" if resident is None else f" (process grew by {resident / MIB:.1f})"
        )
    yield f"{LARGE}: peak extra memory, allowed {bound / MIB:.1f} MiB", measured


def allowed_bytes(case: Case) -> int:
    """workspace + 8 (N + M) D bytes: the gradients, and as much again."""
    return (case.workspace or 0) + 8 * (case.n + case.m) * case.d


def share(row: Row | None) -> str:
    return MISSING if row is None else f"{100 * row.roof_share:.1f} %"


def speed(row: Row | None, other: Row | None) -> str:
    return MISSING if row is None or other is None else f"{other.ms / row.ms:.2f} x"
