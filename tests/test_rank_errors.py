"""The error rule holds over ranks too; what is not finite on one rank is not finite on all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from helpers import ONE_SUM_FOR_TWO, SELF_MODE, Results
from processes import Processes
from rank_errors import at_scale, results, with_a_wrong_row
from rule import judge, transposed
from test_error_rule import DTYPES, draw, references, unknown

# Forty draws each of every regime.
pytestmark = pytest.mark.gates

DRAWS = 16
SCALES = {"random": 14.3, "rivals": 50.0, "converged": 50.0}
LOSSES = ("clip_loss", "siglip_loss", "supcon_loss")
EXCHANGES = ("gather", "ring")


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(4)
    yield pool
    pool.stop()


def of_all(parts: tuple[Results, ...]) -> Results:
    """Rows of all ranks; of a number the first one's, after all ranks have the same."""
    whole = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if first.dim() == 0:
            assert all(torch.equal(first, value) for value in values), name
        whole[name] = torch.cat(values) if first.dim() else first
    return whole


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("regime", SCALES)
@pytest.mark.parametrize("loss", LOSSES)
def test_error_rule(loss: str, regime: str, dtype: torch.dtype, processes: Processes) -> None:
    """Uneven shards, gathered for bf16 and in a ring for fp32."""
    scale, exchange = SCALES[regime], EXCHANGES[dtype == torch.float32]
    known = references(loss, partial(draw, loss, regime, scale, dtype), DRAWS)
    ranks = processes.run(results, loss, regime, scale, dtype, DRAWS, exchange)
    for name, ours in transposed([of_all(parts) for parts in zip(*ranks, strict=True)]).items():
        share = ONE_SUM_FOR_TWO if loss in SELF_MODE and name == "z" else 1.0
        exact = known.exact[name]
        for verdict in judge(name, ours, known.plain[name], exact, share, unknown(scale)):
            assert verdict.holds, str(verdict)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("loss", LOSSES)
def test_not_finite(loss: str, value: float, exchange: str, processes: Processes) -> None:
    for found, gradient in processes.run(with_a_wrong_row, loss, value, exchange):
        assert not math.isfinite(found)
        assert not math.isfinite(gradient)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("scale", [0.0, 1e4, 1e20, 1e30])
def test_huge_scale(scale: float, exchange: str, processes: Processes) -> None:
    for found, whole in processes.run(at_scale, scale, exchange):
        assert found == pytest.approx(whole, rel=1e-5, nan_ok=True)
