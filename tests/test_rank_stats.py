"""``return_stats=True`` over ranks: each has its own rows of the stats of one process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from cases import LOSSES, covering_choices, default_choice
from processes import Processes
from rank_stats import compare_all_stats

LAYOUTS = ("uneven", "empty", "sub-group")
EXCHANGES = ("gather", "ring")


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(4)
    yield pool
    pool.stop()


IN_GATES = LOSSES.keys() - {"clip_loss", "supcon_loss"}


@pytest.mark.parametrize(
    "loss",
    [pytest.param(n, marks=pytest.mark.gates if n in IN_GATES else ()) for n in LOSSES],
)
def test_stats(loss: str, processes: Processes) -> None:
    """lse, positive, rank, both directions, and the accuracy over all rows; every option."""
    ways = list(itertools.product(LAYOUTS, EXCHANGES))
    choices = [default_choice(loss), *covering_choices(loss, 1, 40)]
    cases = [
        (loss, {**choice, "shape": (4, 5)}, layout, seed, {"exchange": exchange})
        for seed, choice in enumerate(choices)
        for layout, exchange in (ways if seed == 0 else ways[seed % 2 :: 2])
    ]
    processes.run(compare_all_stats, cases)
