"""All ranks exchange the same things in the same order; a ring holds two shards beside its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from cases import LOSSES, covering_choices, default_choice
from processes import Processes
from rank_cases import LAYOUTS
from rank_traffic import Exchange, peak, rooms_of_shards, traffic

WORLD = 4
EXCHANGES = ("gather", "ring")
# Bytes of O(N) vectors a row or column may take; see test_memory.py.
VECTORS = 150


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(WORLD)
    yield pool
    pool.stop()


def assert_alike(ranks: list[list[Exchange]]) -> None:
    """Collectives are equal; what a rank sends is what the next one receives."""
    for exchanges in zip(*ranks, strict=True):
        if exchanges[0][0] != "pass_on":
            assert len(set(exchanges)) == 1, exchanges
            continue
        for place, (name, sent, _) in enumerate(exchanges):
            _, _, received = exchanges[(place + 1) % WORLD]
            assert (name, sent) == ("pass_on", received), exchanges


IN_GATES = LOSSES.keys() - {"clip_loss", "siglip_loss"}


@pytest.mark.parametrize(
    "loss",
    [pytest.param(n, marks=pytest.mark.gates if n in IN_GATES else ()) for n in LOSSES],
)
def test_traffic(loss: str, processes: Processes) -> None:
    choices = [default_choice(loss, scale="logit_scale tensor"), *covering_choices(loss, 1, 12)]
    cases = [
        ({**choice, "shape": (4, 5), "reduction": reduction}, LAYOUTS["uneven"], exchange, stats)
        for (index, choice), exchange in itertools.product(enumerate(choices), EXCHANGES)
        for reduction, stats in [[("mean", False), ("none", True)][index % 2]]
    ]
    for ranks in zip(*processes.run(traffic, loss, cases), strict=True):
        assert_alike(list(ranks))


def test_transfers_of_a_ring(processes: Processes) -> None:
    """W - 1 shards forward; backward W - 1 again, and W of gradients."""
    case = (default_choice("clip_loss", shape=(4, 5)), LAYOUTS["uneven"], "ring", False)
    for (record,) in processes.run(traffic, "clip_loss", [case]):
        assert [name for name, *_ in record].count("pass_on") == 2 * (WORLD - 1) + WORLD


def test_shards_of_a_ring(processes: Processes) -> None:
    """The one that is computed with, and the one that comes, however many there are."""
    assert processes.run(rooms_of_shards, 6, 4) == [2] * WORLD


@pytest.mark.parametrize(
    ("exchange", "shards"),
    [
        # Keys; their gradients, and those of the pass that are added to them.
        ("gather", 3 * WORLD),
        # Two of keys; gradients of the pass, its sum, and one that comes and one that goes.
        ("ring", 2 + 4),
    ],
)
def test_memory(exchange: str, shards: int, processes: Processes) -> None:
    """Beside the workspace and the gradient of the queries: shards of one rank's size."""
    rows, size, workspace = 400, 256, 2**15
    own, vectors = rows * size * 4, (rows + WORLD * rows) * VECTORS
    for found in processes.run(peak, exchange, rows, size, workspace):
        assert found <= workspace + (shards + 2) * own + vectors, f"{found / own} shards"
        assert found > (shards + 1) * own, "the bound is loose"
