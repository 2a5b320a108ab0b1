"""torch's own checks of the registered ops: schema, shapes, autograd, tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contrastile.ops import gather, gather_dot, log_sum_exp, pair_sum, stats
from contrastile.problem import Channel, Equal, Index, Not, Phi, Term
from contrastile.problem.row_loss import RowLoss
from helpers import generator, unit_rows
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

N, M, D = 7, 9, 4
IDS, KEY_IDS = torch.arange(N) // 2, torch.arange(M) // 3
COLUMNS = torch.tensor([3, -1, 0, 8, 8, 2, 5])


def softmax(**options: Any) -> RowLoss:
    return RowLoss("softmax", **options)


PROBLEMS: dict[str, Callable[[Tensor, Tensor, Tensor, str], Any]] = {
    "plain": lambda x, y, s, b: log_sum_exp(x, y, scale=s, columns=True, backend=b),
    "self mode": lambda x, y, s, b: log_sum_exp(x, scale=s, backend=b),
    "scale of each row": lambda x, y, s, b: log_sum_exp(x, y, scale=s * x.mean(1), backend=b),
    "biases": lambda x, y, s, b: log_sum_exp(
        x, y, row_bias=x.sum(1), col_bias=y.sum(1), columns=True, backend=b
    ),
    "gaps": lambda x, y, s, b: log_sum_exp(
        x,
        y,
        scale=s,
        channels=[Channel(), Channel(Equal(IDS, KEY_IDS))],
        columns=True,
        row_counts=torch.full((N,), 3),
        col_counts=torch.full((M,), 2),
        backend=b,
    ),
    "ranks": lambda x, y, s, b: log_sum_exp(
        x,
        y,
        scale=s,
        channels=[Channel(Not(Index(COLUMNS)))],
        positives=COLUMNS,
        ranks=True,
        backend=b,
    ),
    "in one pass": lambda x, y, s, b: log_sum_exp(
        x,
        y,
        scale=s,
        channels=[Channel(Not(Index(COLUMNS)))],
        positives=COLUMNS,
        row_loss=softmax(some_without=True),
        workspace=400,
        backend=b,
    ),
    "both directions, rows": lambda x, y, s, b: log_sum_exp(
        x,
        y[:N],
        scale=s,
        channels=[Channel(Not(Index.diagonal(N)))],
        positives=Index.diagonal(N),
        columns=True,
        row_loss=softmax(reduction="none", shows=True),
        backend=b,
    ),
    "sums": lambda x, y, s, b: pair_sum(
        x, y, terms=[Term(Phi.SOFTPLUS), Term(Phi.SQUARE, factor=-1.0)], scale=s, backend=b
    ),
    "no rows": lambda x, y, s, b: log_sum_exp(x[:0], y, scale=s, columns=True, backend=b),
    "no columns": lambda x, y, s, b: log_sum_exp(x, y[:0], scale=s, backend=b),
}


Call = tuple[Any, tuple[Any, ...]]


class Recorder(TorchDispatchMode):
    """The calls of our ops."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "contrastile":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def by_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Primitives take the registered ops, as if they were traced."""
    for module in (stats, gather):
        monkeypatch.setattr(module, "is_traced", lambda: True)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x, y = (unit_rows(rows, D, generator(rows)).float().requires_grad_() for rows in (N, M))
    return x, y, torch.tensor(3.0, requires_grad=True)


def calls_of(found: Callable[[], list[Tensor]]) -> list[Call]:
    """Of a step, forward and backward; tensors that require gradients are leaves."""
    with Recorder() as recorder:
        tensors = [tensor for tensor in found() if tensor.requires_grad]
        torch.stack([tensor.cos().sum() for tensor in tensors]).sum().backward()
    return [(op, tree_map_only(Tensor, _leaf, args)) for op, args in recorder.calls]


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def all_of(found: Any) -> list[Tensor]:
    if found.loss is not None:
        return [found.loss]
    stats = [*found.rows, *found.columns, found.positive, found.row_gap, found.col_gap]
    return [own for own in stats if own is not None]


def check(calls: list[Call], *names: str) -> None:
    """By torch's own checks: gradients of the first op, no second derivatives of the other."""
    assert [op.name() for op, _ in calls] == [f"contrastile::{name}" for name in names]
    (forward, args), (backward, late) = calls
    torch.library.opcheck(forward, args)
    late = tree_map_only(Tensor, Tensor.detach, late)
    torch.library.opcheck(backward, late)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.usefixtures("by_ops")
def test_reductions(problem: str, backend: str) -> None:
    given = inputs()
    check(calls_of(lambda: all_of(PROBLEMS[problem](*given, backend))), "reduce", "weigh")


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.usefixtures("by_ops")
def test_gathers(lists: bool) -> None:
    x, y, _ = inputs()
    starts = torch.tensor([0, 0, 2, 2, 3, 5, 6, 7]) if lists else None
    columns = COLUMNS.clamp(min=0) if lists else COLUMNS
    check(calls_of(lambda: [gather_dot(x, y, columns, starts)]), "gather", "gather_gradients")


@pytest.mark.parametrize("problem", PROBLEMS)
def test_ops_and_nodes_give_the_same(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def step() -> list[Tensor | None]:
        given = inputs()
        found = all_of(PROBLEMS[problem](*given, "cpu"))
        torch.stack([tensor.cos().sum() for tensor in found]).sum().backward()
        return [*(tensor.detach() for tensor in found), *(tensor.grad for tensor in given)]

    eager = step()
    monkeypatch.setattr(stats, "is_traced", lambda: True)
    for ours, theirs in zip(step(), eager, strict=True):
        # In one pass strips may be cut at other places.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
