"""MemoryQueue: a ring of rows, its checkpoints, its graphs, and one of several ranks."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from contrastile import InputError, MemoryQueue, info_nce
from helpers import generator, unit_rows
from past import SCALE, D, N
from processes import Processes
from torch import Tensor
from waits import Waits


def rows_of(*values: float, size: int = 2) -> Tensor:
    """Rows that are told apart by their numbers."""
    return torch.tensor(values, dtype=torch.float32).view(-1, 1).expand(-1, size).contiguous()


def numbers(queue: MemoryQueue) -> list[float]:
    return queue.keys()[:, 0].tolist()


def test_rows_go_in_a_ring() -> None:
    queue = MemoryQueue(5, 2)
    assert queue.keys().shape == (0, 2) and queue.count == 0
    queue.enqueue(rows_of(1, 2, 3))
    assert numbers(queue) == [1, 2, 3] and queue.count == 3
    queue.enqueue(rows_of(4, 5, 6, 7))
    assert numbers(queue) == [6, 7, 3, 4, 5] and queue.count == queue.capacity == 5
    queue.enqueue(rows_of())
    queue.enqueue(rows_of(8))
    assert numbers(queue) == [6, 7, 8, 4, 5]


@pytest.mark.parametrize("before", [(), (1, 2), (1, 2, 3, 4)])
def test_of_more_rows_than_its_capacity_the_last(before: tuple[float, ...]) -> None:
    queue = MemoryQueue(3, 2, ids=True)
    queue.enqueue(rows_of(*before), torch.arange(len(before)))
    queue.enqueue(rows_of(*range(10, 20)), torch.arange(10, 20))
    assert sorted(numbers(queue)) == [17, 18, 19]
    queue.enqueue(rows_of(20), torch.tensor([20]))
    assert sorted(numbers(queue)) == [18, 19, 20]
    assert queue.ids().tolist() == numbers(queue)


def test_against_a_list() -> None:
    """Batches of random sizes: the rows are the last of all that came."""
    rng, number, queue = generator(0), 0, MemoryQueue(13, 2, ids=True)
    held: list[int] = []
    for step in range(60):
        count = int(torch.randint(0, 17, (), generator=rng))
        came = list(range(number, number + count))
        queue.enqueue(rows_of(*came), torch.tensor(came, dtype=torch.int64))
        number, held = number + count, [*held, *came][-queue.capacity :]
        assert sorted(queue.ids().tolist()) == held and numbers(queue) == queue.ids().tolist()
        if step % 20 == 19:
            queue.resize(queue.capacity + 5)


@pytest.mark.parametrize("capacity", [1, 3, 5, 9])
def test_resize_keeps_the_newest(capacity: int) -> None:
    queue = MemoryQueue(5, 2, ids=True)
    queue.enqueue(rows_of(1, 2, 3, 4), torch.tensor([1, 2, 3, 4]))
    queue.enqueue(rows_of(5, 6, 7), torch.tensor([5, 6, 7]))
    queue.resize(capacity)
    kept = [3, 4, 5, 6, 7][-capacity:]
    assert numbers(queue) == queue.ids().tolist() == kept and queue.capacity == capacity
    queue.enqueue(rows_of(8), torch.tensor([8]))
    assert sorted(numbers(queue)) == [*kept, 8][-capacity:]


@pytest.mark.parametrize("filled", [0, 3, 8])
@pytest.mark.parametrize("capacity", [2, 5, 9])
def test_a_state_is_loaded_into_any_capacity(capacity: int, filled: int) -> None:
    queue = MemoryQueue(5, 2, ids=True, dtype=torch.float16)
    for number in range(filled):
        queue.enqueue(rows_of(number), torch.tensor([number]))
    loaded = MemoryQueue(capacity, 2, ids=True)
    loaded.enqueue(rows_of(-1, -2), torch.tensor([-1, -2]))
    other = torch.nn.ModuleDict({"queue": loaded})
    file = io.BytesIO()
    torch.save(torch.nn.ModuleDict({"queue": queue}).state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for number in (filled, filled + 1):
        kept = list(range(number))[-min(capacity, 5) :] if number == filled else None
        assert kept is None or sorted(numbers(loaded)) == kept == sorted(loaded.ids().tolist())
        loaded.enqueue(rows_of(number), torch.tensor([number]))
        assert number in numbers(loaded)
    assert loaded.capacity == capacity and loaded.rows.dtype == torch.float32


def test_a_state_of_the_same_capacity_goes_on_as_if_unbroken() -> None:
    queue, other = MemoryQueue(5, 2), MemoryQueue(5, 2)
    queue.enqueue(rows_of(1, 2, 3, 4))
    queue.enqueue(rows_of(5, 6))
    other.load_state_dict(queue.state_dict())
    for each in (queue, other, copy.deepcopy(queue), pickle.loads(pickle.dumps(queue))):
        each.enqueue(rows_of(7, 8))
        assert numbers(each) == [6, 7, 8, 4, 5]


def test_a_state_of_another_kind_is_refused() -> None:
    with_ids = MemoryQueue(5, 2, ids=True).state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*row_ids"):
        MemoryQueue(5, 2).load_state_dict(with_ids)
    with pytest.raises(RuntimeError, match=r"Missing key.*row_ids"):
        MemoryQueue(5, 2, ids=True).load_state_dict(MemoryQueue(5, 2).state_dict())
    for capacity in (5, 6):
        with pytest.raises(RuntimeError, match="size mismatch for rows"):
            MemoryQueue(capacity, 3).load_state_dict(MemoryQueue(5, 2).state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_are_stored_in_its_dtype_and_detached(dtype: torch.dtype) -> None:
    queue = MemoryQueue(5, 2, dtype=dtype)
    x = torch.full((3, 2), 1 / 3, requires_grad=True)
    queue.enqueue(x)
    assert torch.equal(queue.keys(), x.detach().to(dtype)) and not queue.keys().requires_grad
    assert queue.to(torch.float32).keys().dtype == torch.float32


def test_keys_do_not_change_afterwards() -> None:
    """MoCo puts a batch in before its loss goes backward."""
    queue, x = MemoryQueue(4, D), unit_rows(N, D, generator(0)).float().requires_grad_()
    queue.enqueue(unit_rows(4, D, generator(1)))
    loss = info_nce(x, x.detach(), memory=(queue.keys(),), logit_scale=SCALE)
    queue.enqueue(x)
    loss.backward()
    assert x.grad is not None and x.grad.any()


@pytest.mark.parametrize("filled", [3, 8])
def test_nothing_waits_for_a_device(filled: int) -> None:
    queue = MemoryQueue(8, D, ids=True)
    queue.enqueue(unit_rows(filled, D, generator(0)), torch.arange(filled))
    x, ids = unit_rows(2, D, generator(1)), torch.arange(2)
    with Waits() as waits:
        queue.enqueue(x, ids)
        queue.resize(6)
        queue.enqueue(x, ids)
        rows, codes = queue.keys(), queue.ids()
    assert not waits.found and len(rows) == len(codes) == 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MemoryQueue(0, 2), "capacity must be a positive integer, got 0"),
        (lambda: MemoryQueue(5, True), "size must be a positive integer, got True"),
        (lambda: MemoryQueue(5, 2, dtype=torch.int64), "dtype must be float32"),
        (lambda: MemoryQueue(5, 2).resize(-1), "capacity must be a positive integer, got -1"),
        (lambda: MemoryQueue(5, 2).ids(), "ids=True"),
        (lambda: MemoryQueue(5, 2).enqueue(rows_of(1), torch.tensor([1])), "got some; ids=True"),
        (lambda: MemoryQueue(5, 2, ids=True).enqueue(rows_of(1)), "got none; ids=True"),
        (lambda: MemoryQueue(5, 3).enqueue(rows_of(1)), r"of size 3, got embeddings \(1, 2\)"),
        (lambda: MemoryQueue(5, 2).enqueue(torch.ones(2)), "must be .rows, embedding size."),
        (
            lambda: MemoryQueue(5, 2, ids=True).enqueue(rows_of(1), torch.tensor([1, 2])),
            "ids",
        ),
    ],
)
def test_wrong_use(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"MemoryQueue: .*{message}"):
        call()


# torch.compile.


def test_a_full_queue_is_part_of_one_graph_which_serves_every_step() -> None:
    queue, eager = (MemoryQueue(8, D, ids=True) for _ in range(2))
    step = torch.compile(step_with(queue), fullgraph=True, backend="aot_eager")
    for each in (queue, eager):
        each.enqueue(unit_rows(8, D, generator(0)).float(), torch.arange(8))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(4):
            x, ids = unit_rows(3, D, generator(seed)).float(), torch.arange(3) + seed
            assert torch.equal(step(x, ids), step_with(eager)(x, ids))
            assert torch.equal(queue.keys(), eager.keys())


def test_a_queue_that_fills_up_does_not_recompile_with_every_step() -> None:
    queue, eager = (MemoryQueue(64, D, ids=True) for _ in range(2))
    graphs = torch._dynamo.testing.CompileCounter()
    step = torch.compile(step_with(queue), backend=graphs)
    made = []
    for seed in range(24):
        x, ids = unit_rows(3, D, generator(seed)).float(), torch.arange(3) + seed
        torch.testing.assert_close(step(x, ids), step_with(eager)(x, ids))
        made.append(graphs.frame_count)
    assert queue.count == 64 and torch.equal(queue.keys(), eager.keys())
    # An empty queue, one that fills up, a full one.
    assert made[3] == made[20] and made[23] <= 9, made


def step_with(queue: MemoryQueue) -> Any:
    def step(x: Tensor, ids: Tensor) -> Tensor:
        memory = queue.keys(), queue.ids()
        loss = info_nce(x, x, memory=memory, query_ids=ids, key_ids=ids, logit_scale=SCALE)
        queue.enqueue(x, ids)
        return loss

    return step


# Several ranks.


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(2)
    yield pool
    pool.stop()


def fill_together(sizes: list[tuple[int, int]]) -> tuple[list[float], list[int]]:
    """Steps with some rows of each rank, numbered in the order of steps and ranks."""
    queue, rank, number = MemoryQueue(7, 2, ids=True), dist.get_rank(), 0
    for step in sizes:
        start = number + sum(step[:rank])
        own = list(range(start, start + step[rank]))
        queue.enqueue(rows_of(*own), torch.tensor(own, dtype=torch.int64), group=dist.group.WORLD)
        number += sum(step)
    return numbers(queue), queue.ids().tolist()


@pytest.mark.parametrize(
    ("sizes", "held"),
    [
        ([(2, 2)], [0, 1, 2, 3]),
        ([(1, 3), (0, 0), (2, 0)], [0, 1, 2, 3, 4, 5]),
        ([(3, 3), (0, 4)], [7, 8, 9, 3, 4, 5, 6]),
        ([(2, 9)], [4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_all_ranks_hold_the_rows_of_all(
    sizes: list[tuple[int, int]], held: list[int], processes: Processes
) -> None:
    assert processes.run(fill_together, sizes) == [(held, held)] * 2


def wrong_row() -> str:
    rows = torch.ones(2, 3 - dist.get_rank())
    with pytest.raises(InputError) as raised:
        MemoryQueue(5, 3).enqueue(rows, group=dist.group.WORLD)
    return str(raised.value)


def test_an_error_of_one_rank_is_one_of_all(processes: Processes) -> None:
    first, second = processes.run(wrong_row)
    assert "rank 1: MemoryQueue: it holds embeddings of size 3" in first
    assert second.startswith("MemoryQueue: it holds embeddings of size 3")
