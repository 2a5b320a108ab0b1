"""One clear error on every rank, in seconds, that names the rank; afterwards the group works."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from cases import LOSSES
from processes import Processes
from rank_agreement import (
    ALIKE,
    DIFFERENCES,
    FAULTS,
    ODD,
    alike,
    another_loss,
    biases_of_few_keys,
    empty_row,
    of_group,
    of_odd_rank,
    of_trace,
    prefixes,
    queue_of_another_dtype,
    without_gradients,
    wrong_by_rows,
)

Errors = list[tuple[str, str]]


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(4)
    yield pool
    pool.stop()


def assert_all_say(errors: Errors, words: str) -> None:
    """The same on all ranks."""
    assert len(set(errors)) == 1, errors
    kind, text = errors[0]
    assert kind == "InputError", text
    assert re.search(words, text), text


@pytest.mark.parametrize("name", DIFFERENCES)
def test_one_rank_differs(name: str, processes: Processes) -> None:
    errors = processes.run(of_odd_rank, "differences", name)
    assert_all_say(errors, "clip_loss: all ranks of the group must agree")
    assert_all_say(errors, DIFFERENCES[name][1])


@pytest.mark.parametrize("name", ALIKE)
def test_one_rank_gives_the_same_in_another_way(name: str, processes: Processes) -> None:
    processes.run(alike, name)


@pytest.mark.parametrize("name", FAULTS)
def test_one_rank_is_wrong(name: str, processes: Processes) -> None:
    errors = processes.run(of_odd_rank, "faults", name)
    words = FAULTS[name][1]
    _, own = errors.pop(ODD)
    assert re.search(words, own), own
    assert_all_say(errors, f"clip_loss: not all ranks of the group can go on; rank {ODD}: ")
    assert_all_say(errors, words)


@pytest.mark.parametrize("loss", sorted(LOSSES.keys() - {"info_nce"}))
def test_all_but_one_are_wrong(loss: str, processes: Processes) -> None:
    """Whatever a rank finds wrong, it finds before others wait for it."""
    errors = processes.run(wrong_by_rows, loss)
    _, text = errors[ODD]
    assert "not all ranks of the group can go on; rank 0: " in text, text
    assert all("logit_bias must be a float or a 0-d tensor, got (3,)" in text for _, text in errors)


def test_one_rank_wants_no_gradients(processes: Processes) -> None:
    words = r"gradients \(rank 0 wanted, rank 1 wanted, rank 2 off"
    assert_all_say(processes.run(without_gradients), words)


def test_one_rank_calls_another_loss(processes: Processes) -> None:
    words = r"loss \(rank 0 clip_loss, rank 1 clip_loss, rank 2 siglip_loss"
    errors = processes.run(another_loss)
    # Each names itself.
    assert_all_say([(kind, text.split(": ", 1)[1]) for kind, text in errors], words)


@pytest.mark.parametrize("exchange", ["gather", "ring"])
def test_an_empty_row_of_one_rank(exchange: str, processes: Processes) -> None:
    errors = processes.run(empty_row, exchange)
    assert_all_say(errors, f"rank {ODD}: 1 of 4 rows have no positive .*the first is row 2")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "group must be a process group or a DeviceMesh, got 'dp'"),
        ("number", "group must be a process group or a DeviceMesh, got 0"),
        ("mesh", "group must be one dimension of a DeviceMesh, got one of 2"),
        ("not a member", "this process is no member of group"),
    ],
)
def test_no_group(kind: str, words: str, processes: Processes) -> None:
    assert_all_say(processes.run(of_group, kind), words)


@pytest.mark.parametrize("kind", ["make_fx", "symbols", "fake tensors", "grad", "vmap"])
def test_no_trace(kind: str, processes: Processes) -> None:
    assert_all_say(processes.run(of_trace, kind), "with a group a loss exchanges numbers")


def test_no_tensor_of_a_trace(processes: Processes) -> None:
    errors = processes.run(of_trace, "fake tensors outside of their mode")
    assert_all_say(errors, "x is a FakeTensor of a trace or transform that is not going on")


@pytest.mark.parametrize("name", ["dims", "dim_weights"])
def test_prefixes_of_one_rank_differ(name: str, processes: Processes) -> None:
    errors = processes.run(prefixes, name)
    assert_all_say(errors, rf"^matryoshka: all ranks .* they differ in {name} \(rank 0 .*, rank 2 ")


@pytest.mark.parametrize(
    ("what", "rule"),
    [
        ("a wrong size", "dims must grow"),
        ("no sequence", "dims must be a sequence of integers, got int"),
        ("weights that are text", "dim_weights must be a sequence of numbers, got str"),
    ],
)
def test_prefixes_of_one_rank_are_wrong(what: str, rule: str, processes: Processes) -> None:
    errors = processes.run(prefixes, what)
    _, own = errors.pop(ODD)
    assert own.startswith(f"matryoshka: {rule}")
    assert_all_say(errors, f"^matryoshka: not all ranks .* rank {ODD}: matryoshka: {rule}")


def test_queues_of_two_dtypes(processes: Processes) -> None:
    errors = processes.run(queue_of_another_dtype)
    assert_all_say(errors, r"^MemoryQueue: all ranks .* they differ in dtype .*float16")


@pytest.mark.parametrize("exchange", ["auto", "gather", "ring"])
def test_a_bias_a_key_where_one_rank_has_one_key(exchange: str, processes: Processes) -> None:
    for loss, gradient, truth in processes.run(biases_of_few_keys, exchange):
        assert loss == pytest.approx(truth, rel=1e-5)
        # The same number added to all biases changes nothing.
        assert gradient == pytest.approx(0.0, abs=1e-6)
