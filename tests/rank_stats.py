"""Stats over the rows of several ranks against those of one process: what ranks run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from cases import Choice
from contrastile import functional
from contrastile.losses.rows import Stats
from helpers import Arguments
from processes import FAILURES
from rank_cases import LAYOUTS, Layout, detached, group_of, of_all, parts_of, places


def compare_stats(loss: str, choice: Choice, layout: Layout, seed: int, **options: Any) -> None:
    """A member's stats are its own rows of those of one process that has all rows."""
    group = group_of(layout)
    if layout.members is not None and dist.get_rank() not in layout.members:
        return
    place = dist.get_rank(group)
    parts = parts_of(loss, choice, layout, seed)
    function = getattr(functional, loss)
    _, truth = function(**of_all(loss, parts), return_stats=True)
    _, found = function(**detached(parts[place]), group=group, return_stats=True, **options)
    first = "columns" if choice.get("direction") == "columns" else "rows"
    assert_part(found, truth, of_side(loss, parts, place, first))
    assert (found.columns is None) == (truth.columns is None)
    if truth.columns is not None:
        assert_part(found.columns, truth.columns, of_side(loss, parts, place, "columns"))


def of_side(loss: str, parts: Sequence[Arguments], place: int, side: str) -> torch.Tensor:
    return places(loss, [{**part, "direction": side} for part in parts], place)


def assert_part(found: Stats, truth: Stats, rows: torch.Tensor) -> None:
    torch.testing.assert_close(found.accuracy, truth.accuracy)
    for name in ("lse", "positive", "rank"):
        own, wanted = getattr(found, name), getattr(truth, name)
        if wanted is None:
            assert own is None
            continue
        assert own.dtype == wanted.dtype
        assert not own.requires_grad
        torch.testing.assert_close(
            own, wanted[rows], rtol=1e-10, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
        )


def compare_all_stats(cases: Sequence[tuple[Any, ...]]) -> int:
    """Many cases in one go; each names itself where it fails."""
    for loss, choice, layout, seed, options in cases:
        try:
            compare_stats(loss, choice, LAYOUTS[layout], seed, **options)
        except FAILURES as error:
            raise AssertionError(f"{loss} {choice} {layout} {options}") from error
    return len(cases)
