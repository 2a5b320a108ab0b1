"""log_sum_exp against dense fp64: sides, scales, biases, channels, and all their gradients."""

from __future__ import annotations

import random
from typing import Any

import dense
import pytest
import torch
from contrastile.ops import log_sum_exp
from contrastile.problem import Channel, Equal, Index
from dense import DenseChannel, compare, everything, inputs, named, reduced
from helpers import Arguments, cast, generator
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

SIDES = {
    "rows": {},
    "columns": {"rows": False, "columns": True},
    "both": {"columns": True},
}
BIASES = [(), ("row_bias",), ("col_bias",), ("row_bias", "col_bias")]


def check(
    engine: dict[str, Any],
    arguments: Arguments,
    channels: list[tuple[Channel, DenseChannel]],
    used: list[str] | None = None,
    **sides: bool,
) -> None:
    ours, theirs = [list(kind) for kind in zip(*channels, strict=True)]
    compare(
        lambda given: named(log_sum_exp(**given, channels=ours, **sides, **engine)),
        lambda given: reduced(given, theirs, **sides),
        arguments,
        used,
    )


def plain(arguments: Arguments, factor: float = 1.0) -> tuple[Channel, DenseChannel]:
    return Channel(factor=factor), DenseChannel(everything(arguments), factor)


@pytest.mark.parametrize("biases", BIASES, ids="+".join)
@pytest.mark.parametrize("scale", ["float", "0-d", "one", "per row"])
@pytest.mark.parametrize("sides", SIDES)
def test_sides_scales_and_biases(
    sides: str, scale: str, biases: tuple[str, ...], engine: dict[str, Any]
) -> None:
    arguments = inputs(scale=scale, biases=biases)
    check(engine, arguments, [plain(arguments)], **SIDES[sides])


@pytest.mark.parametrize("scale", [2, 0, -1, -1.5])
def test_any_number_is_a_scale(scale: float, engine: dict[str, Any]) -> None:
    arguments = {**inputs(), "scale": scale}
    check(engine, arguments, [plain(arguments)], columns=True)


def random_channel(rows: int, cols: int, seed: int) -> tuple[Channel, DenseChannel]:
    """Every part of a channel, present or not, by the toss of a coin."""
    rng, coin = generator(seed), random.Random(seed)
    hole, target = (torch.randint(-1, cols, (rows,), generator=rng) for _ in range(2))
    row_ids = torch.randint(0, 4, (rows,), generator=rng)
    col_ids = torch.randint(0, 4, (cols,), generator=rng)
    columns = torch.arange(cols)
    is_hole, is_target = hole[:, None] == columns, target[:, None] == columns
    same = row_ids[:, None] == col_ids
    pairs, kept = coin.choice(
        [
            (None, torch.ones(rows, cols, dtype=torch.bool)),
            (~Index(hole), ~is_hole),
            (~Index(hole) & ~Equal(row_ids, col_ids), ~is_hole & ~same),
            (
                ~Index(hole) & ~Index(target) & ~Equal(row_ids, col_ids),
                ~(is_hole | is_target | same),
            ),
            (Equal(row_ids, col_ids) | Index(target), same | is_target),
        ]
    )
    u, v = (torch.randn(n, generator=rng, dtype=torch.float64) for n in (rows, cols))
    u, v = coin.choice([None, u]), coin.choice([None, v])
    classes = [(Equal(row_ids, col_ids), same, 0.8), (Index(target), is_target, -1.3)]
    classes = classes[: coin.randrange(3)]
    factor = coin.choice([1.0, -0.7, 2.5])
    return (
        Channel(pairs, factor, u, v, tuple((p, w) for p, _, w in classes)),
        DenseChannel(kept, factor, u, v, [(mask, w) for _, mask, w in classes]),
    )


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_channels(seed: int, count: int, sides: str, engine: dict[str, Any]) -> None:
    scale, biases = ["float", "0-d", "per row"][seed % 3], BIASES[seed % 4]
    arguments = inputs(scale=scale, biases=biases, seed=seed)
    channels = [random_channel(23, 31, 10 * seed + i) for i in range(count)]
    check(engine, arguments, channels, **SIDES[sides])


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (5, 7), (6, 8), (64, 65)])
def test_shapes(shape: tuple[int, int], engine: dict[str, Any]) -> None:
    arguments = inputs(*shape, scale="per row", biases=BIASES[3])
    channels = [random_channel(*shape, seed=3), plain(arguments, -0.7)]
    check(engine, arguments, channels, columns=True)


@pytest.mark.parametrize("size", [0, 1, 17])
def test_embedding_sizes(size: int, engine: dict[str, Any]) -> None:
    arguments = inputs(size=size, scale="0-d", biases=BIASES[3])
    check(engine, arguments, [plain(arguments)], columns=True)


@pytest.mark.parametrize(
    "used", [["rows 0"], ["columns 1"], ["rows 1", "columns 0"], ["rows 0", "columns 0"]], ids=str
)
def test_unused_outputs(used: list[str], engine: dict[str, Any]) -> None:
    arguments = inputs(scale="per row", biases=BIASES[3])
    channels = [random_channel(23, 31, seed) for seed in (4, 5)]
    check(engine, arguments, channels, used, columns=True)


def test_each_backward_of_a_graph_stands_alone(engine: dict[str, Any]) -> None:
    """One graph, several backward passes over different outputs: none remembers another."""
    arguments = inputs(scale="0-d")
    leaves = tuple(v for v in arguments.values() if isinstance(v, Tensor))
    stats = log_sum_exp(
        **arguments, channels=[Channel(), Channel(factor=-1.0)], columns=True, **engine
    )
    outputs = [*stats.rows, *stats.columns]
    scores = dense.score_matrix(**arguments)
    expected = [(f * scores).logsumexp(dim) for dim in (1, 0) for f in (1.0, -1.0)]
    for chosen in ([0, 1, 2, 3], [0], [3], [1, 2], [2], [0, 1, 2, 3]):
        got = torch.autograd.grad([outputs[i].sum() for i in chosen], leaves, retain_graph=True)
        true = torch.autograd.grad([expected[i].sum() for i in chosen], leaves, retain_graph=True)
        for mine, theirs in zip(got, true, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("wanted", ["query", "key", "scale", "row_bias", "col_bias"])
@pytest.mark.parametrize("scale", ["0-d", "per row"])
def test_one_gradient_alone(wanted: str, scale: str, engine: dict[str, Any]) -> None:
    arguments = inputs(scale=scale, biases=BIASES[3])
    given = {name: value.detach() for name, value in arguments.items()}
    given[wanted].requires_grad_()
    check(engine, given, [random_channel(23, 31, 4)], columns=True)


@pytest.mark.parametrize("sides", SIDES)
def test_empty_rows_and_columns(sides: str, engine: dict[str, Any]) -> None:
    """-inf exactly there, with a gradient of exactly zero."""
    arguments = inputs(scale="per row", biases=BIASES[3])
    row_ids, col_ids = torch.zeros(23, dtype=torch.int64), torch.zeros(31, dtype=torch.int64)
    row_ids[[2, 9, 22]], col_ids[[0, 8, 30]] = 1, 2
    kept = row_ids[:, None] == col_ids
    channel = Channel(Equal(row_ids, col_ids)), DenseChannel(kept)
    check(engine, arguments, [channel], **SIDES[sides])
    stats = log_sum_exp(**arguments, channels=[channel[0]], **SIDES[sides], **engine)
    leaves = (arguments["query"], arguments["key"])
    query, key = torch.autograd.grad(
        [o for side in (stats.rows, stats.columns) for o in side],
        leaves,
        [torch.ones_like(o) for side in (stats.rows, stats.columns) for o in side],
    )
    assert not query[[2, 9, 22]].any() and not key[[0, 8, 30]].any()
    assert query.isfinite().all() and key.isfinite().all()


def test_nothing_kept_at_all(engine: dict[str, Any]) -> None:
    arguments = inputs(scale="0-d")
    ids = torch.zeros(23, dtype=torch.int64), torch.ones(31, dtype=torch.int64)
    none = torch.zeros(23, 31, dtype=torch.bool)
    check(engine, arguments, [(Channel(Equal(*ids)), DenseChannel(none))], columns=True)


@pytest.mark.parametrize(("rows", "cols"), [(0, 5), (5, 0), (0, 0)])
def test_no_rows_or_no_columns(rows: int, cols: int, engine: dict[str, Any]) -> None:
    arguments = inputs(rows, cols, scale="0-d")
    stats = log_sum_exp(**arguments, columns=True, **engine)
    assert torch.equal(stats.rows[0], torch.full((rows,), -torch.inf).double())
    assert torch.equal(stats.columns[0], torch.full((cols,), -torch.inf).double())
    (stats.rows[0].sum() + stats.columns[0].sum()).backward()
    for name in ("query", "key", "scale"):
        assert torch.equal(arguments[name].grad, torch.zeros_like(arguments[name])), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision(dtype: torch.dtype, engine: dict[str, Any]) -> None:
    """fp32 stats whatever the input, each gradient as its input; fp32 accuracy of the stats."""
    arguments = cast(inputs(scale="per row", biases=BIASES[3]), dtype)
    channels = [random_channel(23, 31, seed) for seed in (4, 5)]
    ours, theirs = zip(*channels, strict=True)
    got = dense.evaluate_all(
        lambda given: named(log_sum_exp(**given, channels=ours, columns=True, **engine)), arguments
    )
    expected = dense.evaluate_all(
        lambda given: reduced(given, theirs, columns=True), cast(arguments, torch.float64)
    )
    for name, true in expected.items():
        is_gradient = name.startswith("d ")
        assert got[name].dtype == (dtype if is_gradient else torch.float32)
        eps = torch.finfo(got[name].dtype).eps
        limit = 16 * eps * max(true[~torch.isneginf(true)].abs().max().item(), 1.0)
        torch.testing.assert_close(got[name].double(), true, rtol=0, atol=limit)


@pytest.mark.parametrize("low", ["query", "key"])
def test_mixed_precision(low: str, engine: dict[str, Any]) -> None:
    arguments = cast(inputs(), torch.float32, "query" if low == "key" else "key")
    arguments = cast(arguments, torch.bfloat16, low)
    stats = log_sum_exp(**arguments, **engine)
    expected = dense.score_matrix(**cast(arguments, torch.float64)).logsumexp(1)
    assert stats.rows[0].dtype == torch.float32
    torch.testing.assert_close(stats.rows[0].double(), expected, rtol=1e-6, atol=1e-6)
