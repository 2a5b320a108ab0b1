"""A lost rank is an error of all others within the group's timeout, never a hang."""

from __future__ import annotations

import pytest
from processes import Processes
from rank_deaths import LOST, step

# Each starts processes of its own and waits for a timeout.
pytestmark = pytest.mark.gates

TIMEOUT = 5.0
# A ring stops step by step: who waits for a rank that has given up waits for the timeout again.
SLACK = 5.0


@pytest.mark.parametrize(
    ("moment", "exchange", "world"),
    [("forward", "ring", 4), ("backward", "gather", 3), ("absent", "ring", 3)],
)
def test_a_rank_is_lost(moment: str, exchange: str, world: int) -> None:
    pool = Processes(world, timeout=TIMEOUT)
    try:
        found = pool.survivors(step, moment, exchange)
    finally:
        pool.stop()
    lost = found.pop(LOST)
    assert lost == (("", 0.0) if moment == "absent" else None)
    for text, seconds in found:
        assert text
        assert seconds < TIMEOUT + SLACK, text
