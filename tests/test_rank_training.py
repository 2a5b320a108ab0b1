"""A step over four ranks has the gradient of one process, whatever is wrapped around it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rank_training as steps
from processes import Processes

EXCHANGES = ("gather", "ring")


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(4)
    yield pool
    pool.stop()


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_ddp(exchange: str, processes: Processes) -> None:
    processes.run(steps.ddp, exchange)


def test_accumulation(processes: Processes) -> None:
    processes.run(steps.accumulated)


def test_fsdp(processes: Processes) -> None:
    processes.run(steps.fsdp)


def test_a_dimension_of_a_mesh(processes: Processes) -> None:
    processes.run(steps.mesh_dimension)


@pytest.mark.parametrize("what", ["model and loss", "loss"])
def test_compile(what: str, processes: Processes) -> None:
    processes.run(steps.compiled, what)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("what", ["towers", "loss"])
def test_checkpoint(what: str, reentrant: bool, processes: Processes) -> None:
    processes.run(steps.checkpointed, what, reentrant)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_retain_graph(exchange: str, processes: Processes) -> None:
    processes.run(steps.retained, exchange)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_frozen_tower(exchange: str, processes: Processes) -> None:
    processes.run(steps.frozen, exchange)
