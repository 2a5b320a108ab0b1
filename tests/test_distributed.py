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
PRODUCT = tuple(itertools.product(LAYOUTS, EXCHANGES, CONVENTIONS))
# Of the product every layout with both exchanges, conventions in turn; the rest is a gate's.
SOME = tuple(case for place, case in enumerate(PRODUCT) if place % 3 == (place // 3) % 3)
# Random options of each loss on random layouts.
DRAWS, NIGHTLY = 12, 120


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(4)
    yield pool
    pool.stop()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "among", [SOME, pytest.param(PRODUCT, marks=pytest.mark.gates)], ids=["some", "all"]
)
def test_layouts(loss: str, among: tuple[tuple[str, str, str], ...], processes: Processes) -> None:
    """However rows are spread, whichever way keys travel, whatever reduces gradients."""
    choice = default_choice(loss, shape=(4, 6), scale="logit_scale tensor")
    cases = [
        (loss, choice, layout, 0, convention, {"exchange": exchange})
        for layout, exchange, convention in among
    ]
    processes.run(compare_all, cases)


def draws() -> list[object]:
    """A few in the suite, options two by two in the gates, 120 of each loss by night."""
    gates = [pytest.param(40, 2, marks=pytest.mark.gates, id="two by two")]
    if os.environ.get("HYPOTHESIS_PROFILE") == "nightly":
        gates.append(pytest.param(NIGHTLY, 4, marks=pytest.mark.gates, id="nightly"))
    return [pytest.param(DRAWS, 1, id="one by one"), *gates]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("count", "strength"), draws())
def test_options(loss: str, count: int, strength: int, processes: Processes) -> None:
    """All options, on random layouts."""
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
        for seed, choice in enumerate(covering_choices(loss, strength, count))
    ]
    processes.run(compare_all, cases)


@pytest.mark.parametrize("loss", LOSSES)
def test_parameters(loss: str, processes: Processes) -> None:
    """A scale and a bias of every shape with every convention: [], [1], and one a row or a key."""
    options = LOSSES[loss]
    scale, bias = (options[name][-1] for name in ("scale", "bias"))
    shapes = [("temperature tensor", "tensor", True), (scale, bias, False)]
    cases = [
        (
            loss,
            default_choice(loss, shape=(4, 5), scale=scale, bias=bias, reduction=reduction),
            layout,
            seed,
            convention,
            {"vectors": vectors, "exchange": EXCHANGES[seed % 2]},
        )
        for seed, (layout, reduction) in enumerate([("uneven", "mean"), ("empty", "none")])
        for convention, (scale, bias, vectors) in itertools.product(CONVENTIONS, shapes)
    ]
    processes.run(compare_all, cases)
