"""The primitives as citizens of autograd: numerical derivatives, repeats, mutation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contrastile.ops import gather_dot, log_sum_exp, merge_log_sum_exp, pair_sum
from contrastile.problem import Channel, Equal, Index, Phi, Term
from dense import inputs
from engines import ENGINES
from helpers import Arguments, cast, floats, generator
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

BIASES = ("row_bias", "col_bias")
TARGETS = torch.tensor([2, -1, 0, 2])
PAIRS = ~Index(torch.tensor([2, 0, -1, 2]))
SAME = Equal(torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 1, 0, 1]))
# Interpreted, each of the hundreds of evaluations takes a tenth of a second: the test command
# checks one random direction, which an error in any entry changes.
gradchecked = pytest.mark.parametrize(
    ("engine", "fast_mode"),
    [
        *((name, name == "triton") for name in ENGINES if not name.startswith("triton, ")),
        pytest.param("triton", False, marks=pytest.mark.gates),
        pytest.param("triton, both forms", False, marks=pytest.mark.gates),
    ],
    indirect=["engine"],
)
CHANNELS = [Channel(PAIRS), Channel(SAME, -0.7, class_log_weights=((PAIRS, 0.4),)), Channel()]
TERMS = [Term(Phi.SOFTPLUS, PAIRS), Term(Phi.SQUARE, SAME, 0.5), Term(Phi.IDENTITY)]


def outputs_of(stats: Any) -> tuple[Tensor, ...]:
    """The differentiable outputs; those of the tests here are finite."""
    return (*stats.rows, *stats.columns, *([] if stats.positive is None else [stats.positive]))


PRIMITIVES: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "log_sum_exp": lambda **given: outputs_of(
        log_sum_exp(channels=CHANNELS, columns=True, positives=TARGETS, **given)
    ),
    "pair_sum": lambda **given: outputs_of(
        pair_sum(terms=TERMS, columns=True, positives=TARGETS, **given)
    ),
}


def of_leaves(
    function: Callable[..., tuple[Tensor, ...]], arguments: Arguments, **options: Any
) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """The function of its leaves alone, and the leaves."""
    leaves = {name: v for name, v in floats(arguments).items() if v.requires_grad}

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = {**arguments, **dict(zip(leaves, tensors, strict=True))}
        return function(**given, **options)

    return call, tuple(leaves.values())


@pytest.mark.parametrize("scale", ["0-d", "per row"])
@pytest.mark.parametrize("name", PRIMITIVES)
@gradchecked
def test_gradcheck(name: str, scale: str, engine: dict[str, Any], fast_mode: bool) -> None:
    arguments = inputs(4, 5, 3, scale=scale, biases=BIASES)
    call, leaves = of_leaves(PRIMITIVES[name], arguments, **engine)
    assert torch.autograd.gradcheck(call, leaves, fast_mode=fast_mode)


@pytest.mark.parametrize("scale", ["0-d", "per row"])
@gradchecked
def test_gradcheck_of_the_self_mode(scale: str, engine: dict[str, Any], fast_mode: bool) -> None:
    own = ~Index.diagonal(7)

    def reduce(**given: Any) -> tuple[Tensor, ...]:
        sums = pair_sum(terms=[Term(Phi.SOFTPLUS, own)], **given)
        return outputs_of(log_sum_exp(channels=[Channel(own)], **given)) + outputs_of(sums)

    call, leaves = of_leaves(reduce, inputs(7, None, 3, scale=scale), **engine)
    assert torch.autograd.gradcheck(call, leaves, fast_mode=fast_mode)


def test_gradcheck_of_gather_and_merge() -> None:
    def listed(query: Tensor, key: Tensor) -> Tensor:
        starts = torch.tensor([0, 2, 2, 3, 5])
        return gather_dot(query, key, torch.tensor([1, -1, 4, 4, 0]), starts)

    arguments = inputs(4, 5, 3)
    leaves = (arguments["query"], arguments["key"])
    assert torch.autograd.gradcheck(listed, leaves)
    assert torch.autograd.gradcheck(lambda q, k: gather_dot(q, k, TARGETS), leaves)
    blocks = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: merge_log_sum_exp(*b), (blocks,))


@pytest.mark.parametrize("name", [*PRIMITIVES, "gather_dot"])
def test_double_backward_is_refused(name: str) -> None:
    """Also where the first derivative alone would be an answer: a gradient penalty, say."""
    arguments = inputs(4, 5, 3, scale="0-d")
    functions = {
        **PRIMITIVES,
        "gather_dot": lambda query, key, scale: gather_dot(query, key, TARGETS),
    }
    function, leaves = of_leaves(functions[name], arguments)
    value = sum(output.sum() for output in function(*leaves))
    first = torch.autograd.grad(value, leaves[:2], create_graph=True)
    penalty = sum(gradient.square().sum() for gradient in first)
    for total in (penalty, value + penalty):
        with pytest.raises(RuntimeError, match=r"(?i)twice|once"):
            torch.autograd.grad(total, leaves[:2], retain_graph=True)
        with pytest.raises(RuntimeError, match=r"(?i)twice|once"):
            total.backward(retain_graph=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_same_bits_every_time(name: str, dtype: torch.dtype, engine: dict[str, Any]) -> None:
    rows, cols = 17, 24
    ids = [torch.randint(0, 4, (n,), generator=generator(n)) for n in (rows, cols)]
    pairs = ~Index.diagonal(rows) & ~Equal(*ids)
    arguments = cast(inputs(rows, cols, 9, scale="per row", biases=BIASES), dtype)
    options = {"columns": True, "positives": Index.diagonal(rows).columns, "ranks": True}
    options["col_thresholds"] = torch.zeros(cols)

    def run(**given: Any) -> tuple[Tensor, ...]:
        if name == "log_sum_exp":
            stats = log_sum_exp(channels=[Channel(pairs), Channel()], **options, **given)
        else:
            stats = pair_sum(terms=[Term(Phi.SOFTPLUS, pairs)], **options, **given)
        return (*stats.rows, *stats.columns, stats.positive, stats.row_rank, stats.col_rank)

    def once() -> list[Tensor]:
        call, leaves = of_leaves(run, arguments, **engine)
        outputs = call(*leaves)
        floating = [o for o in outputs if o.is_floating_point()]
        return [*outputs, *torch.autograd.grad([o.sum() for o in floating], leaves)]

    expected = once()
    # Interpreted, there are no threads that could finish in another order.
    for _ in range(3 if engine["backend"] == "triton" else 20):
        for again, before in zip(once(), expected, strict=True):
            assert torch.equal(again, before)


@pytest.mark.parametrize("self_mode", [False, True], ids=["two sets", "self mode"])
def test_same_bits_from_all_threads(self_mode: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several full tiles, each shared by all threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    rng = generator(0)
    query = torch.randn(1100, 16, generator=rng, requires_grad=True)
    key = None if self_mode else torch.randn(2300, 16, generator=rng, requires_grad=True)
    leaves = [query] if key is None else [query, key]

    def once() -> list[Tensor]:
        stats = log_sum_exp(query, key, columns=key is not None, workspace=1 << 20)
        outputs = [*stats.rows, *stats.columns]
        return [*outputs, *torch.autograd.grad([o.square().sum() for o in outputs], leaves)]

    expected = once()
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(once(), expected, strict=True))


@pytest.mark.parametrize("layout", ["expanded", "strided"])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_upstreams_lie_anywhere_in_memory(name: str, layout: str, engine: dict[str, Any]) -> None:
    """``output.sum()`` sends one number expanded to all rows."""
    call, leaves = of_leaves(PRIMITIVES[name], inputs(4, 5, 3, scale="per row"), **engine)
    outputs = call(*leaves)
    values = [torch.randn(o.shape, generator=generator(1), dtype=o.dtype) for o in outputs]
    if layout == "expanded":
        upstream = [torch.full((), 0.7, dtype=o.dtype).expand(o.shape) for o in outputs]
    else:
        upstream = [torch.stack([v, torch.full_like(v, 1e9)], 1)[:, 0] for v in values]
    plain = [u.contiguous() for u in upstream]
    got = torch.autograd.grad(outputs, leaves, upstream, retain_graph=True)
    expected = torch.autograd.grad(outputs, leaves, plain)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


# Mutation between forward and backward.


@pytest.mark.parametrize(
    "victim", ["query", "key", "scale", "row_bias", "targets", "hole", "row_ids", "log_weight"]
)
def test_change_before_backward_is_never_a_silent_error(
    victim: str, engine: dict[str, Any]
) -> None:
    """Autograd refuses, or the gradient is that of the forward."""

    def forward() -> tuple[Tensor, list[Tensor], Tensor]:
        arguments = inputs(scale="0-d", biases=BIASES)
        leaves = [v for v in floats(arguments).values()]
        given = {n: v * 1 if isinstance(v, Tensor) else v for n, v in arguments.items()}
        data = {
            "targets": torch.arange(23),
            "hole": torch.arange(23),
            "row_ids": torch.arange(23) % 4,
            "log_weight": torch.zeros(23).double(),
        }
        pairs = ~Index(data["hole"]) & ~Equal(data["row_ids"], torch.arange(31) % 5)
        channel = Channel(pairs, row_log_weight=data["log_weight"])
        stats = log_sum_exp(
            **given, channels=[channel], columns=True, positives=data["targets"], **engine
        )
        value = sum(output.sum() for output in (*stats.rows, *stats.columns, stats.positive))
        return value, leaves, {**given, **data}[victim]

    value, leaves, _ = forward()
    expected = torch.autograd.grad(value, leaves)
    value, leaves, changed = forward()
    with torch.no_grad():
        changed.add_(1)
    try:
        got = torch.autograd.grad(value, leaves)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
