"""The losses as citizens of autograd: autocast, parts of a graph, upstreams, mutation, repeats."""

from __future__ import annotations

from typing import Any

import contrastile.functional as losses
import oracles
import pytest
import torch
from cases import LOSSES, arguments_for, default_choice
from contrastile.losses.registry import LOSSES as REGISTRY
from helpers import (
    Arguments,
    Results,
    assert_results_close,
    cast,
    evaluate,
    floats,
    truth,
    upstream_of,
)
from layouts import embedding_names
from torch import Tensor


def arguments_of(loss: str, **changes: Any) -> Arguments:
    changes = {"shape": (9, 5), "scale": "logit_scale tensor", **changes}
    return arguments_for(loss, default_choice(loss, **changes))


def run(loss: str, arguments: Arguments, backend: str) -> Tensor:
    return getattr(losses, loss)(**arguments, backend=backend)


def fresh(arguments: Arguments) -> tuple[Arguments, Results]:
    leaves = {
        name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
        for name, tensor in floats(arguments).items()
    }
    return {**arguments, **leaves}, {n: v for n, v in leaves.items() if v.requires_grad}


def assert_bitwise(got: Results, expected: Results) -> None:
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert value.dtype == expected[name].dtype, name
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing(loss: str, dtype: torch.dtype, backend: str) -> None:
    arguments = cast(arguments_of(loss, normalize=True), dtype)
    arguments |= cast(arguments, torch.float32, "logit_scale")
    expected = evaluate(getattr(losses, loss), arguments, backend=backend)
    given, leaves = fresh(arguments)
    with torch.autocast("cpu", torch.bfloat16):
        value = run(loss, given, backend)
    value.backward(upstream_of(value))
    outside = {"loss": value.detach(), **{name: leaf.grad for name, leaf in leaves.items()}}
    assert_bitwise(outside, expected)
    with torch.autocast("cpu", torch.bfloat16):
        inside = evaluate(getattr(losses, loss), arguments, backend=backend)
    assert_bitwise(inside, expected)


@pytest.mark.parametrize("loss", [n for n in LOSSES if len(REGISTRY[n].embeddings) > 1])
def test_mixed_dtypes(loss: str, backend: str) -> None:
    """bf16 on one side, fp32 on the other: fp32 loss, and each gradient as its input."""
    arguments = cast(arguments_of(loss), torch.float32)
    low = embedding_names(arguments)[0]
    arguments = cast(arguments, torch.bfloat16, low)
    got = evaluate(getattr(losses, loss), arguments, backend=backend)
    expected = truth(getattr(oracles, loss), arguments)
    assert got["loss"].dtype == torch.float32
    assert got[low].dtype == torch.bfloat16
    assert_results_close({low: got.pop(low)}, {low: expected.pop(low)}, rtol=8e-3)
    high = embedding_names(arguments)[1]
    assert got[high].dtype == torch.float32
    assert_results_close({high: got.pop(high)}, {high: expected.pop(high)}, rtol=8e-3)
    assert_results_close(got, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_only_some_inputs_ask_for_a_gradient(loss: str, backend: str) -> None:
    arguments = arguments_of(loss, bias="tensor")
    everything = evaluate(getattr(oracles, loss), arguments)
    for wanted in floats(arguments):
        given = {n: v.detach() if n in everything else v for n, v in arguments.items()}
        given[wanted].requires_grad_()
        got = evaluate(getattr(losses, loss), given, backend=backend)
        assert_results_close(got, {name: everything[name] for name in ("loss", wanted)})


@pytest.mark.parametrize("loss", LOSSES)
def test_without_a_graph(loss: str, backend: str) -> None:
    arguments = arguments_of(loss)
    expected = run(loss, arguments, backend).detach()
    plain = {n: v.detach() if isinstance(v, Tensor) else v for n, v in arguments.items()}
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with context():
            value = run(loss, plain, backend)
        assert not value.requires_grad
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        assert not run(loss, arguments, backend).requires_grad


@pytest.mark.parametrize("loss", LOSSES)
def test_upstreams(loss: str, backend: str) -> None:
    """Zero, expanded with stride 0, and zero on some rows."""
    arguments = arguments_of(loss, reduction="none", ids=default_choice(loss).get("ids"))
    rows = len(run(loss, arguments, backend))
    some = torch.ones(rows, dtype=torch.float64)
    some[::2] = 0
    for upstream in (
        torch.zeros(()).double().expand(rows),
        torch.ones(()).double().expand(rows),
        some,
    ):
        results = []
        for module, options in ((losses, {"backend": backend}), (oracles, {})):
            given, leaves = fresh(arguments)
            getattr(module, loss)(**given, **options).backward(upstream)
            results.append({name: leaf.grad for name, leaf in leaves.items()})
        assert_results_close(*results)
        if not upstream.any():
            assert all(not gradient.any() for gradient in results[0].values())


@pytest.mark.parametrize("loss", LOSSES)
def test_backward_twice_and_once_more(loss: str, backend: str) -> None:
    given, leaves = fresh(arguments_of(loss))
    value = run(loss, given, backend)
    first = torch.autograd.grad(value, tuple(leaves.values()), retain_graph=True)
    again = torch.autograd.grad(value, tuple(leaves.values()))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, tuple(leaves.values()))


@pytest.mark.parametrize("loss", LOSSES)
def test_same_bits_every_time(loss: str, backend: str) -> None:
    arguments = cast(arguments_of(loss, shape=(150, 24)), torch.float32)
    expected = evaluate(getattr(losses, loss), arguments, backend=backend)
    for _ in range(5):
        assert_bitwise(evaluate(getattr(losses, loss), arguments, backend=backend), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_inputs_are_left_alone(loss: str, backend: str) -> None:
    arguments = arguments_of(loss, weights=True, normalize=True)
    before = {n: v.clone() for n, v in arguments.items() if isinstance(v, Tensor)}
    run(loss, arguments, backend).backward()
    assert all(torch.equal(arguments[name], value) for name, value in before.items())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_change_before_backward_is_never_a_silent_error(
    loss: str, normalize: bool, backend: str
) -> None:
    """Autograd refuses, or the gradient is that of the forward."""
    arguments = arguments_of(loss, normalize=normalize, weights=True, bias="tensor")
    if "all equal" in LOSSES[loss].get("ids", []):
        arguments |= {
            name: value
            for name, value in arguments_of(loss, ids="few").items()
            if name.endswith(("ids", "labels"))
        }
    expected = evaluate(getattr(losses, loss), arguments, backend=backend)
    for victim in [name for name, value in arguments.items() if isinstance(value, Tensor)]:
        given, leaves = fresh(arguments)
        given[victim] = given[victim].clone()
        value = run(loss, given, backend)
        with torch.no_grad():
            (given[victim][::2] if given[victim].ndim else given[victim]).add_(1)
        try:
            value.backward(upstream_of(value))
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error), victim
            continue
        for name, leaf in leaves.items():
            assert torch.equal(leaf.grad, expected[name]), f"{victim} changed, {name} is wrong"


def test_gradient_flows_to_what_made_the_inputs(backend: str) -> None:
    """A tower in front of the loss, trained by both."""
    arguments = arguments_of("clip_loss")
    gradients = []
    for module, options in ((losses, {"backend": backend}), (oracles, {})):
        torch.manual_seed(0)
        tower = torch.nn.Linear(5, 6).double()
        log_scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        value = module.clip_loss(
            tower(arguments["x"].detach()),
            tower(arguments["y"].detach()).tanh(),
            logit_scale=log_scale.exp(),
            **options,
        )
        value.backward()
        gradients.append({"weight": tower.weight.grad, "log_scale": log_scale.grad})
    assert_results_close(*gradients)
