"""Sweeps in graphs: torch's own checks of the ops, one graph, transforms, flops, refusals."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from contrastile.ops import sweep, sweep_library
from contrastile.problem import Channel, Index, Map, Mapped, Not, Phi, Plane, Reduction, Term
from contrastile.problem.row_loss import RowLoss
from helpers import generator
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

# By this name the package has the function.
MODULE = import_module("contrastile.ops.sweep")
N, D = 12, 6


def prefixes(x: Tensor, y: Tensor, a: Tensor) -> Tensor:
    n = len(x)
    found = sweep(
        [Plane(x, y, a, None, (0, 3)), Plane(x, y)],
        [
            Reduction(0, [Channel()], columns=True),
            Reduction(
                1,
                [Channel(Not(Index.diagonal(n)))],
                scale=3.0,
                columns=True,
                positives=Index.diagonal(n),
                row_loss=RowLoss("softmax", share=0.5),
            ),
        ],
    )
    assert found[1].loss is not None
    return found[0].rows[0].sum() + (found[0].columns[0] ** 2).sum() + found[1].loss


def maps(x: Tensor, y: Tensor, a: Tensor) -> Tensor:
    mapped = [Mapped(Map.SOFT_TARGET, (0, 1), a), Mapped(Map.VOLUME, (0,), a + 9.0)]
    found = sweep(
        [Plane(x, y), Plane(y, x), *mapped],
        [Reduction(2, terms=[Term(Phi.IDENTITY)]), Reduction(3, [Channel()], scale=-1.0)],
    )
    return found[0].rows[0].sum() + (found[1].rows[0] ** 2).sum()


def one_set(x: Tensor, y: Tensor, a: Tensor) -> Tensor:
    n = len(x)
    (found,) = sweep([Plane(x, None, a, a)], [Reduction(0, [Channel(Not(Index.diagonal(n)))])])
    return (found.rows[0] * y.sum(1)).sum()


def ranks(x: Tensor, y: Tensor, a: Tensor) -> Tensor:
    (found,) = sweep(
        [Plane(x, y, a)],
        [
            Reduction(
                0,
                [Channel(Not(Index.diagonal(N)))],
                positives=Index.diagonal(N),
                ranks=True,
                columns=True,
            )
        ],
    )
    assert found.row_rank is not None and found.positive is not None
    return (found.rows[0] * found.row_rank).sum() + found.positive.sum()


SWEEPS: dict[str, Callable[..., Tensor]] = {
    "prefixes": prefixes,
    "maps": maps,
    "one set": one_set,
    "ranks": ranks,
}
sweeps = pytest.mark.parametrize("loss", SWEEPS.values(), ids=SWEEPS)


def leaves(n: int = N) -> tuple[Tensor, Tensor, Tensor]:
    rng = generator(n)
    x, y = (torch.randn(n, D, generator=rng, dtype=torch.float64) for _ in range(2))
    a = torch.rand(n, generator=rng, dtype=torch.float64)
    return x.requires_grad_(), y.requires_grad_(), a.requires_grad_()


def gradients(loss: Callable[..., Tensor], given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(*given), given)


@sweeps
def test_the_op_keeps_torchs_rules(
    loss: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[Tensor], str, str]] = []
    op, run = torch.ops.contrastile.sweep, MODULE._run

    def recorded(_: Any, spec: Any, tensors: Any) -> Any:
        possible = set(spec.differentiable())
        letters = "".join("+" if i in possible else "-" for i in range(len(tensors)))
        calls.append((list(tensors), spec.text(), letters))
        return run(_, spec, tensors)

    monkeypatch.setattr(MODULE, "_run", recorded)
    loss(*leaves())
    for tensors, spec, letters in calls:
        own = [t.detach().requires_grad_(c == "+") for t, c in zip(tensors, letters, strict=True)]
        torch.library.opcheck(op.default, (own, spec, letters))


@sweeps
def test_the_op_gives_what_the_node_gives(
    loss: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = leaves()
    expected = gradients(loss, given)
    monkeypatch.setattr(MODULE, "_run", lambda _, spec, tensors: sweep_library.sweep(spec, tensors))
    for got, own in zip(gradients(loss, given), expected, strict=True):
        assert torch.equal(got, own)


@sweeps
def test_one_graph(loss: Callable[..., Tensor]) -> None:
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    given = leaves()
    for got, own in zip(gradients(compiled, given), gradients(loss, given), strict=True):
        torch.testing.assert_close(got, own, rtol=1e-12, atol=1e-12)


def test_batch_sizes_do_not_recompile() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(prefixes, fullgraph=True, backend=counter)
    for n in (12, 20, 33, 47, 64):
        given = leaves(n)
        for got, own in zip(gradients(compiled, given), gradients(prefixes, given), strict=True):
            torch.testing.assert_close(got, own, rtol=1e-12, atol=1e-12)
    assert counter.frame_count <= 2


@sweeps
def test_transforms(loss: Callable[..., Tensor]) -> None:
    given = tuple(t.detach() for t in leaves())
    got = torch.func.grad(loss, argnums=(0, 1, 2))(*given)
    for value, own in zip(got, gradients(loss, leaves()), strict=True):
        torch.testing.assert_close(value, own, rtol=1e-12, atol=1e-12)


@sweeps
def test_traced_steps(loss: Callable[..., Tensor]) -> None:
    given = leaves()
    step = make_fx(lambda *own: gradients(loss, own), tracing_mode="symbolic")(*given)
    for value, own in zip(step(*given), gradients(loss, given), strict=True):
        torch.testing.assert_close(value, own, rtol=1e-12, atol=1e-12)


@sweeps
def test_fake_tensors(loss: Callable[..., Tensor]) -> None:
    with FakeTensorMode() as mode:
        given = [mode.from_tensor(t) for t in leaves()]
        value = loss(*given)
        found = torch.autograd.grad(value, given)
    assert value.shape == () and [f.shape for f in found] == [t.shape for t in leaves()]


def test_spans_that_change_from_call_to_call() -> None:
    """torch.compile has symbols for them; a graph is of one span."""

    def loss(x: Tensor, stop: int, plane: int) -> Tensor:
        planes = [Plane(x, features=(0, stop)), Plane(x)]
        return sweep(planes, [Reduction(plane, [Channel()])])[0].rows[0]

    compiled = torch.compile(loss, dynamic=True, fullgraph=True, backend="aot_eager")
    x = leaves()[0]
    for stop, plane in ((2, 0), (3, 0), (5, 0), (5, 1)):
        torch.testing.assert_close(compiled(x, stop, plane), loss(x, stop, plane))


def test_flops_are_those_of_the_longest_prefix() -> None:
    pairs = N * N
    with FakeTensorMode() as mode, FlopCounterMode(display=False) as counter:
        given = [mode.from_tensor(t) for t in leaves()]
        torch.autograd.grad(prefixes(*given), given)
    assert counter.get_total_flops() == 4 * 2 * pairs * D
    with FlopCounterMode(display=False) as counter:
        prefixes(*leaves()).backward()
    assert counter.get_total_flops() == 4 * 2 * pairs * D


@pytest.mark.parametrize("kind", ["double backward", "vmap", "jvp"])
def test_what_there_is_not_is_refused(kind: str) -> None:
    x, y, a = leaves()
    with pytest.raises(RuntimeError, match=r"^sweep: "):
        if kind == "double backward":
            (grad,) = torch.autograd.grad(prefixes(x, y, a), x, create_graph=True)
            grad.sum().backward()
        elif kind == "vmap":
            torch.func.vmap(lambda own: prefixes(own, y.detach(), a.detach()))(
                torch.randn(2, N, D, dtype=torch.float64)
            )
        else:
            torch.func.jvp(lambda own: prefixes(own, y, a), (x,), (x,))


def test_gradcheck() -> None:
    for loss in (prefixes, maps, one_set):
        x, y, a = (t.detach()[:5].requires_grad_() for t in leaves())
        assert torch.autograd.gradcheck(loss, (x, y, a))
