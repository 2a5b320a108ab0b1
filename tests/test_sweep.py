"""Sweeps against dense fp64: planes, spans, factors, maps, mixed stats, and all their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from contrastile.ops import sweep
from contrastile.problem import (
    Channel,
    Equal,
    Index,
    Map,
    Mapped,
    Phi,
    Plane,
    Reduction,
    Term,
)
from contrastile.problem.row_loss import RowLoss
from contrastile.testing import AllocationSpy
from dense import PHI, DenseChannel, DenseTerm, compare, evaluate_all, named
from helpers import Arguments, cast, generator
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROWS, COLS, SIZE = 23, 31, 9
TARGETS = torch.arange(ROWS).roll(3)
IDS = torch.arange(ROWS) % 4, torch.arange(COLS) % 5
SAME = IDS[0][:, None] == IDS[1]
ALL = torch.ones(ROWS, COLS, dtype=torch.bool)
NOT_TARGET = TARGETS[:, None] != torch.arange(COLS)

Outputs = dict[str, Tensor]


class Case(NamedTuple):
    """A sweep of these leaves, and what it is: of each plane the matrix in full."""

    leaves: dict[str, tuple[int, ...]]
    planes: Callable[[Arguments], list[Plane | Mapped]]
    matrices: Callable[[Arguments], list[Tensor]]
    reductions: Callable[[Arguments], list[Reduction]]
    dense: Callable[[Arguments, list[Tensor]], Outputs]


def ours(case: Case, given: Arguments, engine: dict[str, Any]) -> Outputs:
    found: Outputs = {}
    stats = sweep(case.planes(given), case.reductions(given), **engine)
    for number, own in enumerate(stats):
        found |= {f"{number} {name}": value for name, value in named(own).items()}
        if own.positive is not None:
            found[f"{number} positive"] = own.positive
        if own.loss is not None:
            found[f"{number} loss"] = own.loss
    return found


def of(
    number: int, scores: Tensor, *kinds: DenseChannel | DenseTerm, columns: bool = True
) -> Outputs:
    """Stats of a dense matrix, by the names that ours have."""
    sides = [("rows", 1)] + [("columns", 0)] * columns
    return {
        f"{number} {side} {i}": kind.reduce(scores, dim)
        for i, kind in enumerate(kinds)
        for side, dim in sides
    }


def prefix(given: Arguments, size: int) -> Tensor:
    return given["a"][:, None] * given["b"] * (given["x"][:, :size] @ given["y"][:, :size].T)


XY = {"x": (ROWS, SIZE), "y": (COLS, SIZE), "a": (ROWS,), "b": (COLS,), "s": ()}
GUIDE = {"u": (ROWS, 5), "v": (COLS, 5)}


def volumes(least: float) -> Case:
    """Volumes of two planes; numbers of rows are ``least`` and more."""

    def row(given: Arguments) -> Tensor:
        return given["r"].square() * 15 + least

    return Case(
        XY | GUIDE | {"r": (ROWS,)},
        lambda g: [
            Plane(g["x"], g["y"]),
            Plane(g["u"], g["v"]),
            Mapped(Map.VOLUME, (0, 1), row(g), g["b"]),
        ],
        lambda g: [volume([g["x"] @ g["y"].T, g["u"] @ g["v"].T], row(g), g["b"])],
        lambda g: [Reduction(2, [Channel()], scale=g["s"], columns=True)],
        lambda g, v: of(0, g["s"] * v[0], DenseChannel(ALL)),
    )


CASES = {
    "prefixes": Case(
        XY,
        lambda g: [Plane(g["x"], g["y"], g["a"], g["b"], (0, size)) for size in (2, 5, 9)],
        lambda g: [prefix(g, size) for size in (2, 5, 9)],
        lambda g: [
            Reduction(p, [Channel(~Index(TARGETS))], scale=g["s"], columns=True, positives=TARGETS)
            for p in range(3)
        ],
        lambda g, v: {
            name: value
            for p in range(3)
            for name, value in {
                **of(p, g["s"] * v[p], DenseChannel(NOT_TARGET)),
                f"{p} positive": (g["s"] * v[p])[torch.arange(ROWS), TARGETS],
            }.items()
        },
    ),
    "spans, some without factors": Case(
        XY | {"c": (COLS,)},
        lambda g: [
            Plane(g["x"], g["y"], None, g["c"], (3, 6)),
            Plane(g["x"], g["y"], features=(3, 9)),
            Plane(g["x"], g["y"], g["a"], None, (0, 3)),
            Plane(g["x"], g["y"], features=(4, 4)),
        ],
        lambda g: [
            (g["x"][:, 3:6] @ g["y"][:, 3:6].T) * g["c"],
            g["x"][:, 3:] @ g["y"][:, 3:].T,
            (g["x"][:, :3] @ g["y"][:, :3].T) * g["a"][:, None],
            torch.zeros(ROWS, COLS, dtype=torch.float64),
        ],
        lambda g: [Reduction(p, [Channel()], scale=-0.7, columns=True) for p in range(4)],
        lambda g, v: {
            name: value
            for p in range(4)
            for name, value in of(p, -0.7 * v[p], DenseChannel(ALL)).items()
        },
    ),
    "mixed stats of one plane": Case(
        XY | {"r": (ROWS,), "c": (COLS,), "each": (ROWS,)},
        lambda g: [Plane(g["x"], g["y"])],
        lambda g: [g["x"] @ g["y"].T],
        lambda g: [
            Reduction(0, [Channel(), Channel(Equal(*IDS), -0.6)], row_bias=g["r"], columns=True),
            Reduction(
                0, terms=[Term(Phi.SOFTPLUS, ~Index(TARGETS)), Term(Phi.SQUARE)], scale=g["s"]
            ),
            Reduction(0, [Channel(~Equal(*IDS))], scale=g["each"], col_bias=g["c"], columns=True),
        ],
        lambda g, v: {
            **of(0, v[0] + g["r"][:, None], DenseChannel(ALL), DenseChannel(SAME, -0.6)),
            **of(
                1,
                g["s"] * v[0],
                DenseTerm("SOFTPLUS", NOT_TARGET),
                DenseTerm("SQUARE", ALL),
                columns=False,
            ),
            **of(2, g["each"][:, None] * v[0] + g["c"], DenseChannel(~SAME)),
        },
    ),
    "planes of their own operands": Case(
        XY | GUIDE,
        lambda g: [Plane(g["x"], g["y"]), Plane(g["u"], g["v"])],
        lambda g: [g["x"] @ g["y"].T, g["u"] @ g["v"].T],
        lambda g: [Reduction(p, [Channel()], columns=True, scale=g["s"]) for p in (0, 1)],
        lambda g, v: {
            **of(0, g["s"] * v[0], DenseChannel(ALL)),
            **of(1, g["s"] * v[1], DenseChannel(ALL)),
        },
    ),
    # Of some pairs the radicand is negative.
    "volume": volumes(2.0),
    "volume, all positive": volumes(60.0),
    "soft target": Case(
        XY | GUIDE | {"r": (ROWS,)},
        lambda g: [
            Plane(g["x"], g["y"]),
            Plane(g["u"], g["v"], row_factor=g["a"]),
            Mapped(Map.SOFT_TARGET, (1, 0), g["r"], g["b"]),
        ],
        lambda g: [
            (g["a"][:, None] * (g["u"] @ g["v"].T) + g["r"][:, None] + g["b"]).exp()
            * (g["x"] @ g["y"].T)
        ],
        lambda g: [
            Reduction(2, terms=[Term(Phi.IDENTITY, Equal(*IDS))], scale=g["s"], columns=True)
        ],
        lambda g, v: of(0, g["s"] * v[0], DenseTerm("IDENTITY", SAME)),
    ),
    "one vector as a factor and as a map's number": Case(
        XY,
        lambda g: [
            Plane(g["x"], g["y"], g["a"], g["b"]),
            Mapped(Map.SOFT_TARGET, (0, 0), g["a"], g["b"]),
        ],
        lambda g: [
            (v := prefix(g, SIZE)),
            (v + g["a"][:, None] + g["b"]).exp() * v,
        ],
        lambda g: [
            Reduction(0, [Channel()], scale=g["s"], columns=True),
            Reduction(1, terms=[Term(Phi.IDENTITY)], scale=0.1),
        ],
        lambda g, v: {
            **of(0, g["s"] * v[0], DenseChannel(ALL)),
            **of(1, 0.1 * v[1], DenseTerm("IDENTITY", ALL), columns=False),
        },
    ),
    "a map of a map": Case(
        XY | {"r": (ROWS,)},
        lambda g: [
            Plane(g["x"], g["y"]),
            Mapped(Map.SOFT_TARGET, (0, 0), None, g["b"]),
            Mapped(Map.SOFT_TARGET, (0, 1), g["r"] - 3.0),
        ],
        lambda g: [
            (s := g["x"] @ g["y"].T),
            (t := (0.0 * s + s + g["b"]).exp() * s),
            (s + g["r"][:, None] - 3.0).exp() * t,
        ],
        lambda g: [Reduction(p, [Channel()], scale=0.02, columns=True) for p in (0, 2, 1)],
        lambda g, v: {
            **of(0, 0.02 * v[0], DenseChannel(ALL)),
            **of(1, 0.02 * v[2], DenseChannel(ALL)),
            **of(2, 0.02 * v[1], DenseChannel(ALL)),
        },
    ),
    "losses of rows": Case(
        XY,
        lambda g: [Plane(g["x"], g["y"], features=(0, size)) for size in (4, 9)],
        lambda g: [g["x"][:, :size] @ g["y"][:, :size].T for size in (4, 9)],
        lambda g: [
            Reduction(
                p,
                [Channel(~Index(TARGETS))],
                scale=g["s"],
                positives=TARGETS,
                row_loss=RowLoss("softmax", reduction),
            )
            for p, reduction in ((0, "mean"), (1, "none"))
        ],
        lambda g, v: {
            "0 loss": torch.nn.functional.cross_entropy(g["s"] * v[0], TARGETS),
            "1 loss": torch.nn.functional.cross_entropy(g["s"] * v[1], TARGETS, reduction="none"),
        },
    ),
}


def volume(planes: list[Tensor], row: Tensor, col: Tensor) -> Tensor:
    left = row[:, None] - sum(plane.square() for plane in planes)
    there = left > 0
    return torch.where(there, torch.where(there, left, 1.0).sqrt() * col, 0.0)


def arguments_of(case: Case, seed: int = 0) -> Arguments:
    rng = generator(seed)
    return {
        name: (0.7 * torch.randn(shape, generator=rng, dtype=torch.float64)).requires_grad_()
        for name, shape in case.leaves.items()
    }


def dense(case: Case, given: Arguments) -> Outputs:
    return case.dense(given, case.matrices(given))


def unused(case: Case) -> set[str]:
    """Leaves that a case has for others."""
    return {"a", "b", "s"} if case is CASES["planes of their own operands"] else set()


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str, engine: dict[str, Any]) -> None:
    case = CASES[name]
    compare(lambda g: ours(case, g, engine), lambda g: dense(case, g), arguments_of(case))


@pytest.mark.parametrize("used", [["0 rows 0"], ["2 columns 0"], ["1 positive"]], ids=str)
def test_unused_outputs(used: list[str], engine: dict[str, Any]) -> None:
    case = CASES["prefixes"]
    arguments = arguments_of(case)
    compare(lambda g: ours(case, g, engine), lambda g: dense(case, g), arguments, used)


@pytest.mark.parametrize(
    "frozen", [("x",), ("y", "a"), ("u", "v"), ("x", "y"), ("u", "v", "a", "s")]
)
@pytest.mark.parametrize("name", ["soft target", "volume", "prefixes"])
def test_what_needs_no_gradient_gets_none(
    name: str, frozen: tuple[str, ...], engine: dict[str, Any]
) -> None:
    case = CASES[name]
    arguments = {k: v.detach() if k in frozen else v for k, v in arguments_of(case).items()}
    compare(lambda g: ours(case, g, engine), lambda g: dense(case, g), arguments)


def self_mode(given: Arguments, engine: dict[str, Any]) -> Outputs:
    z, a, n = given["z"], given["a"], len(given["z"])
    others = ~Index.diagonal(n)
    planes = [Plane(z, None, a, a, (0, 4)), Plane(z)]
    partner = Index.other_view(n // 2)
    found = sweep(
        planes, [Reduction(p, [Channel(others)], positives=partner) for p in (0, 1)], **engine
    )
    return {
        f"{p} {k}": v
        for p in (0, 1)
        for k, v in (("rows", found[p].rows[0]), ("positive", found[p].positive))
    }


def test_one_set_takes_one_triangle(engine: dict[str, Any]) -> None:
    def formula(given: Arguments) -> Outputs:
        z, a, n = given["z"], given["a"], len(given["z"])
        found = {}
        for p, scores in enumerate((a[:, None] * a * (z[:, :4] @ z[:, :4].T), z @ z.T)):
            others = scores.masked_fill(torch.eye(n, dtype=torch.bool), -torch.inf)
            found[f"{p} rows"] = others.logsumexp(1)
            found[f"{p} positive"] = scores[torch.arange(n), torch.arange(n).roll(n // 2)]
        return found

    rng = generator(3)
    z = torch.randn(26, SIZE, generator=rng, dtype=torch.float64).requires_grad_()
    a = torch.rand(26, generator=rng, dtype=torch.float64).requires_grad_()
    compare(lambda g: self_mode(g, engine), formula, {"z": z, "a": a})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
# Near a radicand of 0, and of a power of a power, a rounding grows.
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"volume", "a map of a map"}))
def test_lower_precision(name: str, dtype: torch.dtype, engine: dict[str, Any]) -> None:
    case = CASES[name]
    if engine["backend"] == "triton" and dtype == torch.bfloat16:
        dtype = torch.float16
    # Vectors are formed of leaves, so they are wide.
    embeddings = arguments_of(case).keys() & {"x", "y", "u", "v"}
    arguments = cast(cast(arguments_of(case), torch.float32), dtype, *embeddings)
    got = evaluate_all(lambda g: ours(case, g, engine), arguments)
    expected = evaluate_all(lambda g: dense(case, g), cast(arguments, torch.float64))
    for output, true in expected.items():
        assert got[output].dtype == (dtype if output[2:] in embeddings else torch.float32)
        limit = 32 * torch.finfo(got[output].dtype).eps * max(true.abs().max().item(), 1.0)
        torch.testing.assert_close(got[output].double(), true, rtol=0, atol=limit)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1)], ids=str)
def test_empty_and_single(shape: tuple[int, int], engine: dict[str, Any]) -> None:
    rows, cols = shape
    x = torch.randn(rows, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(cols, 4, dtype=torch.float64, requires_grad=True)
    planes = [Plane(x, y, features=(0, 2)), Plane(x, y), Mapped(Map.VOLUME, (0,))]
    found = sweep(
        planes,
        [
            Reduction(0, [Channel()], columns=True),
            Reduction(1, terms=[Term(Phi.SOFTPLUS)], columns=True),
            Reduction(2, [Channel()], columns=True),
        ],
        **engine,
    )
    scores = x[:, :2] @ y[:, :2].T
    torch.testing.assert_close(
        found[0].rows[0], scores.logsumexp(1) if cols else torch.full((rows,), -torch.inf).double()
    )
    torch.testing.assert_close(found[1].rows[0], PHI["SOFTPLUS"](x @ y.T).sum(1))
    total = sum(own.sum() for stats in found for own in (*stats.rows, *stats.columns))
    if total.isfinite():
        total.backward()
    else:
        found[1].rows[0].sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape and not x.grad.isnan().any()


def test_no_block_is_larger_than_its_share_of_the_workspace() -> None:
    """Planes, weights and totals of all reductions together."""
    x = torch.randn(600, 16, requires_grad=True)
    y = torch.randn(700, 16, requires_grad=True)
    workspace = 2**16
    for count in (2, 4):
        planes = [Plane(x, y, features=(0, 16 * (p + 1) // count)) for p in range(count)]
        with AllocationSpy() as spy:
            found = sweep(
                planes,
                [Reduction(p, [Channel()], columns=True) for p in range(count)],
                workspace=workspace,
            )
            sum(own.rows[0].sum() + own.columns[0].sum() for own in found).backward()
        vectors = 1300 * (16 * 4 * 2 + count * 150)
        assert spy.peak_bytes <= workspace + vectors
        assert workspace + vectors < 600 * 700 * 4 * count
