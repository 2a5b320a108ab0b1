"""pair_sum against dense fp64: every phi, thresholds, factors, sides, and all their gradients."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from contrastile.ops import gather_dot, pair_sum
from contrastile.problem import Equal, Index, Not, Phi, Term
from dense import PHI, DenseTerm, compare, evaluate_all, everything, inputs, named, reduced
from helpers import Arguments, cast, generator
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

SIDES = [(True, False), (False, True), (True, True)]
BIASES = ("row_bias", "col_bias")


def check(
    engine: dict[str, Any],
    arguments: Arguments,
    terms: list[tuple[Term, DenseTerm]],
    sides: tuple[bool, bool] = (True, True),
    used: list[str] | None = None,
) -> None:
    ours, theirs = [list(kind) for kind in zip(*terms, strict=True)]
    rows, columns = sides
    compare(
        lambda given: named(pair_sum(**given, terms=ours, rows=rows, columns=columns, **engine)),
        lambda given: reduced(given, theirs, rows=rows, columns=columns),
        arguments,
        used,
    )


def random_term(rows: int, cols: int, seed: int, phi: str | None = None) -> tuple[Term, DenseTerm]:
    """Every part of a term, present or not, by the toss of a coin."""
    rng, coin = generator(seed), random.Random(seed)
    hole = torch.randint(-1, cols, (rows,), generator=rng)
    row_ids = torch.randint(0, 4, (rows,), generator=rng)
    col_ids = torch.randint(0, 4, (cols,), generator=rng)
    is_hole, same = hole[:, None] == torch.arange(cols), row_ids[:, None] == col_ids
    pairs, kept = coin.choice(
        [
            (None, torch.ones(rows, cols, dtype=torch.bool)),
            (~Index(hole), ~is_hole),
            (Equal(row_ids, col_ids), same),
            (~Index(hole) & ~Equal(row_ids, col_ids), ~is_hole & ~same),
        ]
    )
    threshold = coin.choice([None, torch.randn(rows, generator=rng, dtype=torch.float64)])
    factor = coin.choice([1.0, -1.0, 0.6])
    phi = phi or coin.choice(list(PHI))
    return Term(Phi[phi], pairs, factor, threshold), DenseTerm(phi, kept, factor, threshold)


@pytest.mark.parametrize("sides", SIDES, ids=["rows", "columns", "both"])
@pytest.mark.parametrize("scale", ["float", "0-d", "one", "per row"])
@pytest.mark.parametrize("phi", PHI)
def test_each_phi(phi: str, scale: str, sides: tuple[bool, bool], engine: dict[str, Any]) -> None:
    arguments = inputs(scale=scale, biases=BIASES if scale == "per row" else ())
    check(engine, arguments, [(Term(Phi[phi]), DenseTerm(phi, everything(arguments)))], sides)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("phi", PHI)
def test_parts_of_a_term(phi: str, seed: int, engine: dict[str, Any]) -> None:
    arguments = inputs(scale="per row", biases=BIASES, seed=seed)
    check(engine, arguments, [random_term(23, 31, seed, phi)])


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_several_terms(seed: int, count: int, engine: dict[str, Any]) -> None:
    arguments = inputs(scale="0-d", biases=BIASES[: seed % 3], seed=seed)
    terms = [random_term(23, 31, 10 * seed + i) for i in range(count)]
    check(engine, arguments, terms, SIDES[seed % 3])


@pytest.mark.parametrize("used", [["rows 0"], ["columns 1"], ["rows 1", "columns 0"]], ids=str)
def test_unused_outputs(used: list[str], engine: dict[str, Any]) -> None:
    arguments = inputs(scale="per row", biases=BIASES)
    check(engine, arguments, [random_term(23, 31, i) for i in (1, 2)], used=used)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (64, 65)])
def test_shapes(shape: tuple[int, int], engine: dict[str, Any]) -> None:
    arguments = inputs(*shape, scale="per row", biases=BIASES)
    check(engine, arguments, [random_term(*shape, seed=2)])


def test_an_empty_sum_is_zero(engine: dict[str, Any]) -> None:
    arguments = inputs(scale="0-d")
    ids = torch.zeros(23, dtype=torch.int64), torch.ones(31, dtype=torch.int64)
    stats = pair_sum(**arguments, terms=[Term(Phi.SOFTPLUS, Equal(*ids))], columns=True, **engine)
    assert not stats.rows[0].any() and not stats.columns[0].any()
    stats.rows[0].sum().backward()
    assert not any(arguments[name].grad.any() for name in ("query", "key", "scale"))


@pytest.mark.parametrize("phi", PHI)
def test_scores_far_out(phi: str, engine: dict[str, Any]) -> None:
    """softplus(-80) is e^-80, not zero; softplus(80) is 80."""
    arguments = inputs() | {"scale": 40.0}
    check(engine, arguments, [(Term(Phi[phi]), DenseTerm(phi, everything(arguments)))])
    arguments = inputs(5, 9, size=1)
    arguments |= {"query": -torch.ones(5, 1).double(), "key": torch.full((9, 1), 80.0).double()}
    row = evaluate_all(
        lambda given: named(pair_sum(**given, terms=[Term(Phi.SOFTPLUS)], **engine)),
        {**arguments, "scale": torch.tensor(1.0, dtype=torch.float64, requires_grad=True)},
    )["rows 0"]
    torch.testing.assert_close(row, 9 * torch.full((5,), -80.0).double().exp(), rtol=1e-12, atol=0)


def test_smooth_ranks(engine: dict[str, Any]) -> None:
    """How many score above the positive, as a sum of sigmoids: Smooth-AP's ranks.

    Brown et al. 2020; the positive is a bias of its row, so that it has its gradient.
    """
    rng = generator(3)
    x, y = (torch.randn(23, 6, generator=rng, dtype=torch.float64) for _ in "xy")
    own, sharpness = Index.diagonal(23), 10.0

    def ranks(x: Tensor, y: Tensor) -> Tensor:
        positive = gather_dot(x, y, torch.arange(23), scale=sharpness)
        others = [Term(Phi.SIGMOID, Not(own))]
        return pair_sum(x, y, terms=others, scale=sharpness, row_bias=-positive, **engine).rows[0]

    def plain(x: Tensor, y: Tensor) -> Tensor:
        dots = x @ y.T
        above = torch.sigmoid(sharpness * (dots - dots.diagonal()[:, None]))
        return above.masked_fill(torch.eye(23, dtype=torch.bool), 0.0).sum(1)

    seen = []
    for function in (ranks, plain):
        leaves = [side.clone().requires_grad_() for side in (x, y)]
        found = function(*leaves)
        weights = torch.linspace(-1, 1, 23, dtype=torch.float64)
        seen.append([found.detach(), *torch.autograd.grad(found @ weights, leaves)])
    torch.testing.assert_close(*seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("phi", PHI)
def test_lower_precision(phi: str, dtype: torch.dtype, engine: dict[str, Any]) -> None:
    arguments = cast(inputs(scale="per row", biases=BIASES), dtype)
    ours, theirs = random_term(23, 31, 1, phi)
    got = evaluate_all(
        lambda given: named(pair_sum(**given, terms=[ours], columns=True, **engine)), arguments
    )
    expected = evaluate_all(
        lambda given: reduced(given, [theirs], columns=True), cast(arguments, torch.float64)
    )
    for name, true in expected.items():
        assert got[name].dtype == (dtype if name.startswith("d ") else torch.float32)
        limit = 16 * torch.finfo(got[name].dtype).eps * max(true.abs().max().item(), 1.0)
        torch.testing.assert_close(got[name].double(), true, rtol=0, atol=limit)
