"""Threads at once, backward passes twice, elsewhere and inside of each other, and what is saved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import contrastile.functional as losses
import pytest
import torch
from cases import LOSSES
from contrastile.ops import gather_dot, log_sum_exp
from helpers import generator, unit_rows
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.profiler import profile
from traced import Numbers, assert_same, numbers_of, plain

each_loss = pytest.mark.parametrize("loss", LOSSES)
pytestmark = pytest.mark.filterwarnings("ignore")


def leaf(seed: int, rows: int = 40) -> Tensor:
    return unit_rows(rows, 6, generator(seed)).float().requires_grad_()


def test_many_threads_at_once() -> None:
    """Of all losses and of several sizes, so that plans are made and found at the same time."""
    calls = [plain(loss, rows) for loss in LOSSES for rows in (9, 40, 65)]
    expected = [numbers_of(*call) for call in calls]
    start = threading.Barrier(4)

    def work(shift: int) -> list[Numbers]:
        start.wait()
        order = calls[shift:] + calls[:shift]
        found = [numbers_of(*call) for call in order for _ in range(3)]
        return found[::3][len(calls) - shift :] + found[::3][: len(calls) - shift]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, (0, 5, 11, 17)):
            for ours, theirs in zip(found, expected, strict=True):
                assert_same(ours, theirs)


def test_one_tensor_in_many_threads() -> None:
    """Its gradient is the sum of what they add."""
    shared, others = leaf(0), [leaf(seed).detach() for seed in range(1, 5)]

    def work(other: Tensor) -> None:
        losses.clip_loss(shared, other, temperature=0.1).backward()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, others))
    copy = shared.detach().clone().requires_grad_()
    for other in others:
        losses.clip_loss(copy, other, temperature=0.1).backward()
    torch.testing.assert_close(shared.grad, copy.grad, rtol=1e-5, atol=1e-7)


@each_loss
def test_backward_in_another_thread(loss: str) -> None:
    call, tensors = plain(loss)
    found = call(**tensors)
    thread = threading.Thread(target=found.backward)
    thread.start()
    thread.join()
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    assert_same([found.detach(), *(t.grad for t in leaves)], scaled_numbers(call, tensors))


def scaled_numbers(call: Callable[..., Tensor], tensors: dict[str, Tensor]) -> Numbers:
    """The loss and its own gradients."""
    loss = call(**tensors)
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


@each_loss
def test_two_backward_passes(loss: str) -> None:
    call, tensors = plain(loss)
    found = call(**tensors)
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    first = torch.autograd.grad(found, leaves, retain_graph=True)
    kept = [grad.clone() for grad in first]
    second = torch.autograd.grad(found, leaves, torch.tensor(2.0), retain_graph=True)
    third = torch.autograd.grad(found, leaves)
    for one, then, two, three in zip(first, kept, second, third, strict=True):
        assert torch.equal(one, then)
        assert torch.equal(one, three)
        torch.testing.assert_close(two, 2 * one, rtol=1e-5, atol=1e-8)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(found, leaves)


class Inside(torch.autograd.Function):
    """The identity; its backward pass makes a step of its own."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        with torch.enable_grad():
            own = leaf(7)
            losses.nt_xent(own, own.detach().flip(0), temperature=0.1).backward()
        assert own.grad is not None and own.grad.isfinite().all()
        return grad


def test_a_step_inside_of_a_backward_pass() -> None:
    x, y = leaf(1), leaf(2).detach()
    losses.clip_loss(Inside.apply(x), y, temperature=0.1).backward()
    copy = x.detach().clone().requires_grad_()
    losses.clip_loss(copy, y, temperature=0.1).backward()
    assert x.grad is not None and copy.grad is not None
    assert torch.equal(x.grad, copy.grad)


@pytest.mark.parametrize("changed", ["query", "key", "scale", "bias", "ids"])
def test_a_saved_tensor_that_was_changed(changed: str) -> None:
    query, key = leaf(1), leaf(2)
    given = {
        "query": query * 1.0,
        "key": key * 1.0,
        "scale": torch.tensor(5.0),
        "bias": torch.zeros(40),
        "ids": torch.arange(40),
    }
    stats = log_sum_exp(
        given["query"],
        given["key"],
        scale=given["scale"],
        row_bias=given["bias"],
        positives=given["ids"],
    )
    assert stats.positive is not None
    given[changed].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (stats.rows[0] - stats.positive).sum().backward()


def test_a_saved_tensor_of_listed_pairs_that_was_changed() -> None:
    x, columns = leaf(1), torch.arange(40)
    dots = gather_dot(x, x.detach(), columns)
    columns.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        dots.sum().backward()


@each_loss
def test_everything_kept_goes_through_autograd(loss: str) -> None:
    """So it is moved, freed and counted with the rest; and what comes back is used."""
    call, tensors = plain(loss)
    expected = numbers_of(call, tensors)
    packed = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor.clone()

    with saved_tensors_hooks(pack, lambda tensor: tensor.clone()):
        assert_same(numbers_of(call, tensors), expected)
    assert any(tensor.data_ptr() == own.data_ptr() for tensor in packed for own in tensors.values())
    with save_on_cpu():
        assert_same(numbers_of(call, tensors), expected)


# What a profiler calls it.


def entries(step: Callable[[], Tensor]) -> set[str]:
    with profile() as seen:
        step().backward()
    return {event.key for event in seen.key_averages()}


def test_profiles_name_the_function() -> None:
    x, y = leaf(1), leaf(2)
    found = entries(lambda: losses.clip_loss(x, y, temperature=0.1))
    assert {"contrastile::clip_loss", "ReduceScores", "ReduceScoresBackward"} <= found
    found = entries(lambda: log_sum_exp(x, y).rows[0].sum())
    assert "contrastile::log_sum_exp" in found


def test_profiles_of_compiled_code_name_the_operators() -> None:
    torch._dynamo.reset()
    x, y = leaf(1), leaf(2)
    compiled = torch.compile(
        lambda: losses.clip_loss(x, y, temperature=0.1), backend="aot_eager", fullgraph=True
    )
    compiled()
    assert {"contrastile::reduce", "contrastile::weigh"} <= entries(compiled)
