"""Every backend over four ranks, against fp64 on the same numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from processes import Processes
from rank_backends import against_oracle
from selected import rest_in_gates

LOSSES = ("clip_loss", "siglip_loss", "supcon_loss")
EXCHANGES = ("gather", "ring")


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(4)
    yield pool
    pool.stop()


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "backend", [pytest.param("reference", marks=pytest.mark.gates), "cpu", "torch pass"]
)
def test_backends(
    backend: str, loss: str, dtype: torch.dtype, exchange: str, processes: Processes
) -> None:
    named = "cpu" if backend == "torch pass" else backend
    processes.run(against_oracle, loss, dtype, exchange, named, backend != "torch pass")


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(
    "dtype", rest_in_gates([torch.float32, torch.bfloat16], [torch.bfloat16]), ids=str
)
@pytest.mark.parametrize("loss", LOSSES)
def test_triton(loss: str, dtype: torch.dtype, exchange: str, processes: Processes) -> None:
    """Interpreted; in a ring its backward pass starts from log-sum-exps of all shards."""
    processes.run(against_oracle, loss, dtype, exchange, "triton")
