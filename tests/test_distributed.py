"""Every loss over the rows of up to four gloo processes, against one process that has all rows."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator

import pytest
from cases import LOSSES, covering_choices, default_choice
from processes import Processes
from rank_cases import LAYOUTS, compare_all

CONVENTIONS = ("ddp", "sum", "none")
EXCHANGES = ("gather", "ring")
# Of each loss, random options with random layouts.
DRAWS = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 40


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(4)
    yield pool
    pool.stop()


@pytest.mark.parametrize("loss", LOSSES)
def test_layouts(loss: str, processes: Processes) -> None:
    """However rows are spread, whichever way keys travel, whatever reduces gradients."""
    choice = default_choice(loss, shape=(4, 6), scale="logit_scale tensor")
    cases = [
        (loss, choice, layout, 0, convention, {"exchange": exchange})
        for layout, exchange, convention in itertools.product(LAYOUTS, EXCHANGES, CONVENTIONS)
    ]
    processes.run(compare_all, cases)


@pytest.mark.parametrize("loss", LOSSES)
def test_options(loss: str, processes: Processes) -> None:
    """All options, two by two, on random layouts."""
    rng = random.Random(loss)
    cases = [
        (
            loss,
            {**choice, "shape": (4, 5)},
            rng.choice(list(LAYOUTS)),
            seed,
            rng.choice(CONVENTIONS),
            {"exchange": rng.choice(EXCHANGES)},
        )
        for seed, choice in enumerate(covering_choices(loss, 2, DRAWS))
    ]
    processes.run(compare_all, cases)
