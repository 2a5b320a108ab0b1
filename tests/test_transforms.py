"""torch.func: gradients of a loss are its own; what it does not have is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import contrastile.functional as losses
import pytest
import torch
from cases import LOSSES
from contrastile.ops import gather_dot, log_sum_exp, pair_sum
from contrastile.problem import Phi, Term
from everything import Function, of_one
from helpers import generator, unit_rows
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.functional import hessian, hvp, jacobian, jvp
from torch.func import functional_call
from traced import plain

each_loss = pytest.mark.parametrize("loss", LOSSES)
pytestmark = pytest.mark.filterwarnings("ignore")


def of_many(loss: str) -> tuple[Callable[..., Tensor], tuple[Tensor, ...], list[int], list[Tensor]]:
    """A function of tensors, these, which of them are differentiated, and those gradients."""
    call, named = plain(loss)
    tensors = tuple(named.values())
    wanted = [place for place, tensor in enumerate(tensors) if tensor.requires_grad]
    grads = torch.autograd.grad(call(**named), [tensors[place] for place in wanted])

    def function(*tensors: Tensor) -> Tensor:
        return call(**dict(zip(named, tensors, strict=True)))

    return function, tuple(t.detach() for t in tensors), wanted, list(grads)


@each_loss
def test_gradients(loss: str) -> None:
    function, tensors, wanted, expected = of_many(loss)
    got = torch.func.grad(function, argnums=tuple(wanted))(*tensors)
    assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))


@each_loss
def test_values_and_vector_jacobian_products(loss: str) -> None:
    function, tensors, wanted, expected = of_many(loss)
    chosen = [tensors[place] for place in wanted]

    def of_chosen(*chosen: Tensor) -> Tensor:
        given = list(tensors)
        for place, tensor in zip(wanted, chosen, strict=True):
            given[place] = tensor
        return function(*given)

    value, pull = torch.func.vjp(of_chosen, *chosen)[:2]
    assert torch.equal(value, function(*tensors))
    for ours, theirs in zip(pull(torch.tensor(2.0)), expected, strict=True):
        torch.testing.assert_close(ours, 2 * theirs, rtol=1e-6, atol=1e-9)


@each_loss
def test_functionalized(loss: str) -> None:
    function, x = of_one(loss)
    assert torch.equal(torch.func.functionalize(function)(x), function(x))


def test_parameters_of_a_model() -> None:
    """The gradient of all parameters of a module, as torch.func writes a step."""
    model = nn.Linear(5, 4)
    x, y = unit_rows(9, 5, generator(1)).float(), unit_rows(9, 4, generator(2)).float()

    def loss_of(parameters: dict[str, Tensor]) -> Tensor:
        return losses.clip_loss(functional_call(model, parameters, (x,)), y, temperature=0.1)

    got = torch.func.grad(loss_of)({k: v.detach() for k, v in model.named_parameters()})
    losses.clip_loss(model(x), y, temperature=0.1).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(got[name], parameter.grad)


def test_primitives_have_gradients() -> None:
    x, y = unit_rows(9, 5, generator(1)), unit_rows(7, 5, generator(2))
    columns = torch.tensor([6, 0, -1, 3, 3, 2, 1, 0, 5])
    functions: list[Function] = [
        lambda x: log_sum_exp(x, y, scale=3.0, columns=True).columns[0].cos().sum(),
        lambda x: pair_sum(x, y, terms=[Term(Phi.SQUARE)]).rows[0].cos().sum(),
        lambda x: gather_dot(x, y, columns, scale=x.sum()).cos().sum(),
        lambda x: gather_dot(y, x, torch.arange(7)).cos().sum(),
    ]
    for function in functions:
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(function(leaf), leaf)
        assert torch.equal(torch.func.grad(function)(x), expected)


# What is refused.


def forward_mode(function: Function, x: Tensor) -> None:
    with forward_ad.dual_level():
        function(forward_ad.make_dual(x, torch.ones_like(x)))


def batched_gradients(function: Function, x: Tensor) -> None:
    x = x.requires_grad_()
    torch.autograd.grad(function(x), x, torch.ones(3), is_grads_batched=True)


TWICE = "double backward is not supported"

REFUSED: dict[str, tuple[Callable[[Function, Tensor], Any], str]] = {
    "vmap": (lambda function, x: torch.vmap(function)(torch.stack([x, x])), "vmap of torch.func"),
    "vmap of another": (
        lambda function, x: torch.vmap(lambda a: a * function(x))(torch.ones(2)),
        "vmap of torch.func",
    ),
    "vmap of a gradient": (
        lambda function, x: torch.vmap(torch.func.grad(function))(torch.stack([x, x])),
        "vmap of torch.func",
    ),
    "jvp": (lambda function, x: torch.func.jvp(function, (x,), (x,)), "jvp of torch.func"),
    "linearize": (torch.func.linearize, "forward-mode derivatives"),
    "jacrev": (lambda function, x: torch.func.jacrev(function)(x), "vmap does not reach"),
    "jacfwd": (lambda function, x: torch.func.jacfwd(function)(x), "(vmap|jvp) of torch.func"),
    "hessian": (lambda function, x: torch.func.hessian(function)(x), "(vmap|jvp) of torch.func"),
    "grad of grad": (
        lambda function, x: torch.func.grad(lambda a: torch.func.grad(function)(a).sum())(x),
        TWICE,
    ),
    "vjp of vjp": (
        lambda function, x: torch.func.vjp(torch.func.grad(function), x)[1](x),
        TWICE,
    ),
    "dual tensors": (forward_mode, "forward-mode derivatives"),
    "batched gradients": (batched_gradients, "the gradient of its result is a batch of gradients"),
    "vectorized jacobian": (
        partial(jacobian, vectorize=True),
        "the gradient of its result is a batch",
    ),
    "hvp": (lambda function, x: hvp(function, x, x), TWICE),
    "jvp by two backward passes": (lambda function, x: jvp(function, x, x), TWICE),
    "hessian by backward passes": (hessian, TWICE),
}


@pytest.mark.parametrize("kind", REFUSED)
@each_loss
def test_what_there_is_not_is_refused(loss: str, kind: str) -> None:
    """Also where torch would take a missing derivative for zero."""
    derive, message = REFUSED[kind]
    with pytest.raises(RuntimeError, match=rf"^{loss}: {message}"):
        derive(*of_one(loss))


@pytest.mark.parametrize("kind", REFUSED)
def test_primitives_refuse_in_their_own_name(kind: str) -> None:
    derive, message = REFUSED[kind]
    x, columns = torch.randn(4, 3), torch.arange(4)
    functions: dict[str, Function] = {
        "log_sum_exp": lambda x: log_sum_exp(x, x.detach()).rows[0].sum(),
        "gather_dot": lambda x: gather_dot(x, x.detach(), columns).sum(),
    }
    for name, function in functions.items():
        with pytest.raises(RuntimeError, match=rf"^{re.escape(name)}: {message}"):
            derive(function, x.clone())


# torch.compile of them.

INSIDE: dict[str, Callable[[Function, Tensor], Any]] = {
    "grad": lambda function, x: torch.func.grad(function)(x),
    "jvp": lambda function, x: torch.func.jvp(function, (x,), (x,))[1],
    "vmap": lambda function, x: torch.vmap(function)(torch.stack([x, x])),
    "grad of grad": lambda function, x: torch.func.grad(
        lambda a: torch.func.grad(function)(a).sum()
    )(x),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_none_is_taken_into_compiled_code(kind: str) -> None:
    """Where it may leave the graph it does, and gives what it gives outside."""
    torch._dynamo.reset()
    function, x = of_one("clip_loss")
    derive = partial(INSIDE[kind], function)
    with pytest.raises(Exception, match=r"clip_loss: torch.func inside of compiled code"):
        torch.compile(derive, backend="aot_eager", fullgraph=True)(x)
    in_parts = torch.compile(derive, backend="aot_eager")
    if kind == "grad":
        assert torch.equal(in_parts(x), derive(x))
    else:
        with pytest.raises(RuntimeError, match=rf"^clip_loss: ({kind}|{TWICE})"):
            in_parts(x)


def test_dual_tensors_in_compiled_code() -> None:
    torch._dynamo.reset()
    function, x = of_one("clip_loss")
    compiled = torch.compile(function, backend="aot_eager")
    with pytest.raises(Exception, match=r"clip_loss: forward-mode derivatives"):
        forward_mode(compiled, x)
    with pytest.raises(Exception, match=r"clip_loss: forward-mode derivatives"):
        torch.compile(partial(forward_mode, function), backend="aot_eager")(x)
