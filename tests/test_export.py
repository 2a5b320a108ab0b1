"""A loss in a graph: exported, traced, of fake tensors, and what its products are counted as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contrastile.functional as losses
import pytest
import torch
from cases import LOSSES
from contrastile.ops import group_max, log_sum_exp, top_k
from contrastile.ops.library import letters_of
from contrastile.ops.selection_flops import flops_of_max_sim_gradients
from contrastile.problem import Channel, Index
from functorch.compile import aot_function
from helpers import Arguments, generator, unit_rows
from selected import rest_in_gates
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode
from traced import ROWS, SIZE, assert_same, numbers_of, plain

each_loss = pytest.mark.parametrize("loss", LOSSES)
pytestmark = pytest.mark.filterwarnings("ignore")

Step = Callable[..., tuple[Tensor, ...]]


def step_of(call: Callable[..., Tensor], tensors: Arguments) -> Step:
    """The loss and its gradients as a function of ``tensors``, to be traced."""
    wanted = [name for name, tensor in tensors.items() if tensor.requires_grad]

    def step(*given: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(tensors, given, strict=True))
        named |= {name: named[name].detach().requires_grad_() for name in wanted}
        loss = call(**named)
        grads = torch.autograd.grad(loss, [named[name] for name in wanted])
        return loss.detach(), *grads

    return step


def detached(tensors: Arguments) -> list[Tensor]:
    return [tensor.detach() for tensor in tensors.values()]


class AsModule(nn.Module):
    """A function to export."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Tensor) -> Tensor:
        return self.function(*given)


TRACERS: dict[str, Callable[[Step, list[Tensor]], Callable[..., Any]]] = {
    "real": lambda step, given: make_fx(step)(*given),
    "fake": lambda step, given: make_fx(step, tracing_mode="fake")(*given),
    "symbolic": lambda step, given: make_fx(step, tracing_mode="symbolic")(*given),
}
# torch itself records no step with its backward pass there, but numbers of it.
OF_LOSSES: dict[str, Callable[[Step, list[Tensor]], Callable[..., Any]]] = {
    "pre-dispatch": lambda step, given: make_fx(step, pre_dispatch=True)(*given),
    "jit": lambda step, given: torch.jit.trace(step, given, check_trace=False),
}


def others_like(tensors: list[Tensor]) -> list[Tensor]:
    """Other embeddings than were traced."""
    return [t + torch.randn_like(t) if t.dim() == 2 else t for t in tensors]


@pytest.mark.parametrize("tracer", TRACERS)
@each_loss
def test_traced_steps(loss: str, tracer: str) -> None:
    call, tensors = plain(loss)
    step, given = step_of(call, tensors), detached(tensors)
    graph = TRACERS[tracer](step, given)
    others = others_like(given)
    assert_same(list(graph(*others)), list(step(*others)))


@pytest.mark.parametrize("tracer", OF_LOSSES)
@each_loss
def test_traced_losses(loss: str, tracer: str) -> None:
    call, tensors = plain(loss)

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        return (call(**dict(zip(tensors, given, strict=True))),)

    given = detached(tensors)
    graph = OF_LOSSES[tracer](function, given)
    others = others_like(given)
    assert_same(list(graph(*others)), list(function(*others)))


@pytest.mark.parametrize(
    ("loss", "strict"),
    rest_in_gates(
        [*((loss, False) for loss in LOSSES), ("clip_loss", True), ("multi_positive_nce", True)],
        [("clip_loss", True), ("info_nce", False), ("supcon_loss", False)],
    ),
)
def test_exported(loss: str, strict: bool) -> None:
    """With a number of rows that stays a symbol."""
    call, tensors = plain(loss)
    names, given = list(tensors), tuple(detached(tensors))
    rows = torch.export.Dim("rows", min=3, max=512)
    shapes = tuple({0: rows} if len(t.shape) and len(t) == ROWS else {} for t in given)
    module = AsModule(lambda *given: call(**dict(zip(names, given, strict=True))))
    if loss in ("info_nce", "multi_positive_nce"):
        # They have another number of keys than of queries.
        keys = torch.export.Dim("keys", min=3, max=512)
        of_keys = [t.dim() > 0 and len(t) != ROWS for t in given]
        shapes = tuple({0: keys} if own else s for own, s in zip(of_keys, shapes, strict=True))
    exported = torch.export.export(module, given, dynamic_shapes=(shapes,), strict=strict)
    for size in (ROWS, ROWS + 8):
        other, tensors = plain(loss, size)
        found = exported.module()(*detached(tensors))
        assert torch.equal(found, other(**tensors))


def test_training_of_what_was_exported() -> None:
    """Of tensors that require gradients; a graph of others has none, and says so."""
    call, tensors = plain("clip_loss")
    module = AsModule(lambda *given: call(**dict(zip(tensors, given, strict=True))))

    def exported(given: list[Tensor]) -> Callable[..., Tensor]:
        graph = torch.export.export(module, tuple(given), strict=False).module()
        return lambda **named: graph(*named.values())

    got = numbers_of(exported(list(tensors.values())), tensors)
    assert_same(got, numbers_of(call, tensors))
    with pytest.raises(RuntimeError, match=r"^clip_loss: this graph was made of tensors that need"):
        numbers_of(exported(detached(tensors)), tensors)


@each_loss
def test_ahead_of_time(loss: str) -> None:
    call, tensors = plain(loss)
    traced = aot_function(
        lambda *given: call(**dict(zip(tensors, given, strict=True))),
        fw_compiler=lambda graph, _: graph,
    )
    assert_same(
        numbers_of(lambda **given: traced(*given.values()), tensors), numbers_of(call, tensors)
    )


@each_loss
def test_fake_tensors_have_the_shapes_of_true_ones(loss: str) -> None:
    call, tensors = plain(loss)
    step, given = step_of(call, tensors), detached(tensors)
    with FakeTensorMode() as mode:
        fake = step(*[mode.from_tensor(tensor) for tensor in given])
    for ours, theirs in zip(fake, step(*given), strict=True):
        assert (ours.shape, ours.dtype, ours.stride()) == (
            theirs.shape,
            theirs.dtype,
            theirs.stride(),
        )


# Products.

N, M, D = 40, 24, 8
ONE_PRODUCT = 2 * N * M * D


def flops(function: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def embeddings() -> tuple[Tensor, Tensor]:
    x, y = (unit_rows(rows, D, generator(rows)).float() for rows in (N, M))
    return x.requires_grad_(), y.requires_grad_()


def both_ways(function: Callable[..., Any], *given: Tensor) -> int:
    """The flops of a step, of true tensors and of fake ones alike."""
    found = flops(lambda: function(*given))
    mode = FakeTensorMode()
    fake = [mode.from_tensor(t.detach()).requires_grad_(t.requires_grad) for t in given]
    with mode:
        assert flops(lambda: function(*fake)) == found
    return found


@pytest.mark.parametrize("workspace", [None, 1])
def test_flops_of_two_directions(workspace: int | None) -> None:
    """Three products where scores are kept, else four."""

    def step(x: Tensor, y: Tensor) -> None:
        stats = log_sum_exp(x, y, scale=5.0, columns=True, workspace=workspace)
        (stats.rows[0].sum() + stats.columns[0].sum()).backward()

    assert both_ways(step, *embeddings()) == (4 if workspace else 3) * ONE_PRODUCT


def test_flops_of_one_direction() -> None:
    def step(x: Tensor, y: Tensor) -> None:
        losses.info_nce(
            x, y, positives=torch.zeros(N, dtype=torch.int64), temperature=1.0
        ).backward()

    with torch.no_grad():
        assert flops(lambda: losses.info_nce(*(e[:M] for e in embeddings()), temperature=1.0)) == (
            2 * M * M * D
        )
    x, y = embeddings()
    assert flops(lambda: step(x, y)) == 3 * ONE_PRODUCT
    assert flops(lambda: step(x, y.detach())) == 2 * ONE_PRODUCT


def test_flops_of_what_is_asked_for() -> None:
    """Positives alone need no weights of all pairs."""

    def step(x: Tensor, y: Tensor) -> None:
        columns = Index(torch.zeros(N, dtype=torch.int64, device=x.device))
        stats = log_sum_exp(x, y, channels=[Channel()], positives=columns)
        assert stats.positive is not None
        stats.positive.sum().backward()

    assert flops(lambda: step(*embeddings())) == ONE_PRODUCT


def test_flops_of_selections() -> None:
    """Gradients are those of listed pairs: no matrix product."""

    def best(x: Tensor, y: Tensor) -> None:
        top_k(x, y, k=2).values.sum().backward()

    def best_of_groups(x: Tensor, y: Tensor) -> None:
        starts = torch.tensor([0, 4, M], device=x.device)
        group_max(x, y, starts).values.sum().backward()

    assert both_ways(best, *embeddings()) == ONE_PRODUCT
    assert both_ways(best_of_groups, *embeddings()) == ONE_PRODUCT


def test_flops_of_late_interaction() -> None:
    one = 2 * (5 * 3) * (5 * 4) * D
    x, y = torch.randn(5, 3, D), torch.randn(5, 4, D)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        found = losses.max_sim_info_nce(x, y, temperature=1.0)
        assert isinstance(found, Tensor)
        return found

    assert both_ways(loss, x, y) == one
    mode = FakeTensorMode()
    fake = [mode.from_tensor(t).requires_grad_() for t in (x, y)]
    with mode:
        assert flops(lambda: loss(*fake).backward()) == 2 * one
    given = x.to("meta"), None, y.flatten(0, 1).to("meta"), None, None, 0, None, None, None
    assert flops_of_max_sim_gradients("", *given, letters_of([True, True, True])) == 3 * one
    assert flops_of_max_sim_gradients("", *given, letters_of([False, True, True])) == 2 * one


def test_flops_of_a_triangle() -> None:
    def step(x: Tensor) -> None:
        log_sum_exp(x).rows[0].sum().backward()

    found = both_ways(step, embeddings()[0])
    assert 0 < found <= 4 * 2 * N * N * D
    assert (SIZE, found % (2 * D)) == (SIZE, 0)
