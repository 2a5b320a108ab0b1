"""The mean of one plane under the softmax of another, against dense formulas and the error rule."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import pytest
import torch
from contrastile import InputError
from contrastile.ops import Expectation, expectation
from contrastile.problem import (
    Channel,
    Equal,
    Index,
    Map,
    Mapped,
    Not,
    Pairs,
    Plane,
    Reduction,
)
from contrastile.testing import AllocationSpy
from dense import compare, evaluate_all
from helpers import (
    Arguments,
    Results,
    cast,
    crowded_pairs,
    evaluate,
    generator,
    overlapping_pairs,
    truth,
    unit_rows,
)
from rule import judge, pooled, transposed
from selected import rest_in_gates
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROWS, COLS, SIZE, OTHER = 23, 31, 9, 5
IDS = torch.arange(ROWS) % 4, torch.arange(COLS) % 5
# What is kept: all, some, none of rows 0, 4, 8 and of columns 4, 9, 14.
PAIRS: dict[str, tuple[Pairs | None, Tensor]] = {
    "all": (None, torch.ones(ROWS, COLS, dtype=torch.bool)),
    "off the diagonal": (Not(Index.diagonal(ROWS)), ~torch.eye(ROWS, COLS, dtype=torch.bool)),
    "few": (
        Equal(*IDS) & Not(Equal(IDS[0] * 0, IDS[1])) & Not(Equal(IDS[0], IDS[1] * 0)),
        (IDS[0][:, None] == IDS[1]) & (IDS[1] != 0) & (IDS[0] != 0)[:, None],
    ),
}
SHAPES = {"x": (ROWS, SIZE), "y": (COLS, SIZE), "u": (ROWS, OTHER), "v": (COLS, OTHER)}
SCALES = {"number": (), "one": (1,), "per row": (ROWS,)}


def leaves(scale: str = "number", seed: int = 0) -> Arguments:
    rng = generator(seed)
    shapes = {**SHAPES, "a": (ROWS,), "b": (COLS,), "s": SCALES[scale]}
    return {
        name: torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }


def outputs(found: Expectation) -> Results:
    named = {name: getattr(found, name) for name in ("rows", "columns", "row_lse", "col_lse")}
    return {name: value for name, value in named.items() if value is not None}


def ours(given: Arguments, pairs: Pairs | None = None, **options: Any) -> Results:
    of = Plane(given["x"], given["y"], col_factor=given["b"], features=(2, 8))
    under = Plane(given["u"], given["v"], row_factor=given["a"])
    return outputs(expectation(of, under, scale=given["s"], pairs=pairs, **options))


def dense(given: Arguments, kept: Tensor, columns: bool = True) -> Results:
    values = (given["x"][:, 2:8] @ given["y"][:, 2:8].T) * given["b"]
    scale = given["a"] * given["s"]
    exponents = (scale[:, None] * (given["u"] @ given["v"].T)).masked_fill(~kept, -torch.inf)
    found = {}
    for mean, lse, dim in (("rows", "row_lse", 1), ("columns", "col_lse", 0))[: 1 + columns]:
        none = ~kept.any(dim, keepdim=True)
        own = torch.where(none, 0.0, exponents)
        found[mean] = torch.where(none, 0.0, own.softmax(dim) * values).sum(dim)
        found[lse] = torch.where(none, -torch.inf, own.logsumexp(dim, keepdim=True)).squeeze(dim)
    return found


@pytest.mark.parametrize(
    ("name", "scale"),
    rest_in_gates(
        [(name, scale) for name in PAIRS for scale in SCALES],
        [("all", "number"), ("off the diagonal", "one"), ("few", "per row")],
    ),
)
def test_values_and_gradients(name: str, scale: str, engine_of_planes: dict[str, Any]) -> None:
    """Of embeddings, factors and the scale, through both planes; of lines without pairs none."""
    pairs, kept = PAIRS[name]
    assert bool(kept.any(1).all()) == bool(kept.any(0).all()) == (name != "few")
    compare(
        lambda given: ours(given, pairs, columns=True, **engine_of_planes),
        lambda given: dense(given, kept),
        leaves(scale),
    )


@pytest.mark.parametrize("used", [["rows"], ["columns"], ["row_lse", "columns"]], ids=str)
@pytest.mark.parametrize("frozen", [(), ("x", "y", "b"), ("u", "v", "a", "s"), ("u", "y")], ids=str)
def test_what_is_not_asked_for(frozen: tuple[str, ...], used: list[str], backend: str) -> None:
    pairs, kept = PAIRS["off the diagonal"]
    given = {k: v.detach() if k in frozen else v for k, v in leaves().items()}
    sides = {"rows": "columns" not in used, "columns": "columns" in used or "col_lse" in used}
    sides["rows"] = sides["rows"] or "row_lse" in used
    if {"u", "v", "a", "s"} <= {*frozen}:
        used = [name for name in used if "lse" not in name]

    def formula(given: Arguments) -> Results:
        found = dense(given, kept)
        wanted = {"rows": ("rows", "row_lse"), "columns": ("columns", "col_lse")}
        return {n: found[n] for side, names in wanted.items() if sides[side] for n in names}

    compare(lambda g: ours(g, pairs, backend=backend, **sides), formula, given, used)


def test_gradcheck(backend: str) -> None:
    def means(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip("xyuvabs", tensors, strict=True))
        pairs = Not(Index.diagonal(4))
        return tuple(ours(given, pairs, columns=True, backend=backend).values())

    rng = generator(1)
    shapes = [(4, 8), (5, 8), (4, 3), (5, 3), (4,), (5,), ()]
    tensors = [torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_() for s in shapes]
    assert torch.autograd.gradcheck(means, tensors)


@pytest.mark.parametrize(("dtype", "height"), [(torch.float32, 300.0), (torch.float64, 2000.0)])
def test_pairs_left_out_may_be_beyond_all_numbers(
    dtype: torch.dtype, height: float, engine_of_planes: dict[str, Any]
) -> None:
    """Of a positive that wins by far a power relative to the others is infinite."""
    rng = generator(2)
    given = {k: torch.randn(ROWS, ROWS, generator=rng, dtype=torch.float64) for k in "xyu"}
    given |= {"v": height * torch.eye(ROWS, dtype=torch.float64) + 0.1 * given["u"]}
    given["u"] = torch.eye(ROWS, dtype=torch.float64) + 0.01 * given["u"]
    given = cast({k: v.requires_grad_() for k, v in given.items()}, dtype)
    off = ~torch.eye(ROWS, dtype=torch.bool)

    def means(given: Arguments) -> Results:
        planes = Plane(given["x"], given["y"]), Plane(given["u"], given["v"])
        return outputs(
            expectation(*planes, pairs=Not(Index.diagonal(ROWS)), columns=True, **engine_of_planes)
        )

    def formula(given: Arguments) -> Results:
        values = given["x"] @ given["y"].T
        exponents = (given["u"] @ given["v"].T).masked_fill(~off, -torch.inf)
        return {
            "rows": (exponents.softmax(1) * values).sum(1),
            "columns": (exponents.softmax(0) * values).sum(0),
            "row_lse": exponents.logsumexp(1),
            "col_lse": exponents.logsumexp(0),
        }

    got, expected = evaluate_all(means, given), evaluate_all(formula, cast(given, torch.float64))
    for name, exact in expected.items():
        assert bool(got[name].isfinite().all()), name
        limit = 3e3 * torch.finfo(dtype).eps * exact.abs().max().item()
        torch.testing.assert_close(got[name].double(), exact, rtol=0, atol=limit)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1)], ids=str)
def test_empty_and_single(shape: tuple[int, int], engine_of_planes: dict[str, Any]) -> None:
    rows, cols = shape
    x, u = (torch.randn(rows, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y, v = (torch.randn(cols, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = expectation(Plane(x, y), Plane(u, v), columns=True, **engine_of_planes)
    assert found.rows is not None and found.columns is not None
    scores = x @ y.T
    torch.testing.assert_close(found.rows, scores.sum(1))
    torch.testing.assert_close(found.columns, scores.sum(0))
    (found.rows.sum() + found.columns.sum()).backward()
    for leaf in (x, y, u, v):
        assert leaf.grad is not None and not leaf.grad.isnan().any()
    for leaf in (u, v):
        assert leaf.grad is not None and bool((leaf.grad == 0).all())


def test_further_reductions_are_of_both_planes(engine_of_planes: dict[str, Any]) -> None:
    given = leaves()
    others = [Reduction(0, [Channel()], scale=2.0, columns=True), Reduction(1, [Channel()])]
    planes = Plane(given["x"], given["y"]), Plane(given["u"], given["v"])
    first, second = expectation(*planes, scale=given["s"], others=others, **engine_of_planes).others
    scores = 2.0 * given["x"] @ given["y"].T
    torch.testing.assert_close(first.rows[0], scores.logsumexp(1))
    torch.testing.assert_close(first.columns[0], scores.logsumexp(0))
    under = given["s"] * (given["u"] @ given["v"].T)
    torch.testing.assert_close(second.rows[0], under.logsumexp(1))


DRAWS = 24
REGIMES = {
    "random": [1.0, 14.3, 100.0],
    "rivals": [1.0, 14.3, 50.0, 100.0],
    "converged": [14.3, 50.0, 100.0],
}
LENGTH = 72


def draw(regime: str, scale: float, seed: int) -> Arguments:
    """Unit rows of both planes; in "converged" those of an item agree in each."""
    rng, n = generator(seed), 107
    if regime == "converged":
        items = unit_rows(n, LENGTH, rng)
        noise = [1e-3 * (seed % 2) * unit_rows(n, LENGTH, rng) for _ in range(4)]
        sets = [torch.nn.functional.normalize(items + own, dim=1) for own in noise]
    else:
        make = crowded_pairs if regime == "rivals" else overlapping_pairs
        sets = [*make(n, n, LENGTH, rng), *make(n, n, LENGTH, rng)]
    given = {k: own.float().requires_grad_() for k, own in zip("xyuv", sets, strict=True)}
    return {**given, "s": torch.tensor(scale, requires_grad=True)}


def both_sides(backend: str, x: Tensor, y: Tensor, u: Tensor, v: Tensor, s: Tensor) -> Tensor:
    found = expectation(Plane(x, y), Plane(u, v), scale=s, columns=True, backend=backend)
    assert found.rows is not None and found.columns is not None
    return torch.cat([found.rows, found.columns])


def plain(x: Tensor, y: Tensor, u: Tensor, v: Tensor, s: Tensor) -> Tensor:
    values, exponents = x @ y.T, s * (u @ v.T)
    return torch.cat(
        [(exponents.softmax(1) * values).sum(1), (exponents.softmax(0) * values).sum(0)]
    )


def in_another_order(given: Arguments, seed: int) -> Results:
    """The plain formula on permuted features: the order of a sum is luck."""
    order = torch.randperm(LENGTH, generator=generator(seed))
    permuted = {k: t.detach()[:, order] if t.dim() == 2 else t.detach() for k, t in given.items()}
    found = evaluate(plain, {k: t.requires_grad_() for k, t in permuted.items()})
    return {k: t[:, order.argsort()] if t.dim() == 2 else t for k, t in found.items()}


@cache
def setting(
    regime: str, scale: float
) -> tuple[list[Arguments], dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    draws = [draw(regime, scale, seed) for seed in range(DRAWS)]
    theirs = [in_another_order(given, seed) for seed, given in enumerate(draws)]
    return draws, transposed(theirs), transposed([truth(plain, given) for given in draws])


@pytest.mark.parametrize("regime", REGIMES)
def test_error_rule(regime: str, backend: str) -> None:
    """At most the plain formula's error, of means and all gradients. An exponent in fp32 is as
    exact as its largest number, which powers of a whole row share: the division takes it out.
    """
    assert_rule(regime, DRAWS, backend)


@pytest.mark.parametrize("regime", REGIMES)
def test_error_rule_without_compiled_code(regime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrastile.native.load", lambda: None)
    assert_rule(regime, DRAWS, "cpu")


@pytest.mark.gates
@pytest.mark.parametrize("regime", REGIMES)
def test_error_rule_with_triton(regime: str) -> None:
    """Interpreted kernels are slow: a few draws."""
    assert_rule(regime, 3, "triton")


def assert_rule(regime: str, count: int, backend: str) -> None:
    every: dict[str, list[list[Any]]] = {}
    for scale in REGIMES[regime]:
        draws, theirs, exact = setting(regime, scale)
        got = transposed([evaluate(partial(both_sides, backend), own) for own in draws[:count]])
        unknown = 16 * torch.finfo(torch.float64).eps * scale
        for name, own in got.items():
            verdicts = judge(name, own, theirs[name], exact[name], 1.0, unknown)
            every.setdefault(name, []).append(verdicts)
            for verdict in verdicts:
                assert verdict.holds, f"scale {scale}: {verdict}"
    for settings in every.values():
        for same in zip(*settings, strict=True):
            assert pooled(same).holds, str(pooled(same))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype, backend: str) -> None:
    """Means in fp32 of the rounded embeddings, gradients rounded once."""
    given = cast(draw("random", 14.3, 0), dtype, "x", "y", "u", "v")
    got, exact = evaluate(partial(both_sides, backend), given), truth(plain, given)
    for name, expected in exact.items():
        own = torch.float32 if name in ("loss", "s") else dtype
        assert got[name].dtype == own
        limit = 16 * torch.finfo(own).eps * max(expected.abs().max().item(), 1e-2)
        torch.testing.assert_close(got[name].double(), expected, rtol=0, atol=limit)


def test_memory() -> None:
    """The workspace, copies of embeddings, and vectors: no matrix."""
    n, workspace = 1500, 2**19
    given = cast({k: v[:1].detach().repeat(n, 1) for k, v in leaves().items() if k in "xyuv"},
                 torch.float32)  # fmt: skip
    sets = {k: v.requires_grad_() for k, v in given.items()}
    planes = Plane(sets["x"], sets["y"]), Plane(sets["u"], sets["v"])
    with AllocationSpy() as spy:
        found = expectation(*planes, scale=3.0, columns=True, workspace=workspace)
        assert found.rows is not None and found.columns is not None
        (found.rows.sum() + found.columns.sum()).backward()
    embeddings = sum(tensor.numel() * 4 for tensor in sets.values())
    assert spy.peak_bytes - workspace < 4 * embeddings + n * 600
    assert spy.peak_bytes < n * n * 4 / 2


@pytest.mark.gates
def test_one_graph() -> None:
    """Compiled in one piece, forward and backward."""
    torch._dynamo.reset()
    pairs = Not(Index.diagonal(ROWS))

    def total(*tensors: Tensor) -> Tensor:
        found = ours(dict(zip("xyuvabs", tensors, strict=True)), pairs, columns=True)
        return sum((i + 1.0) * (own**2).sum() for i, own in enumerate(found.values()))  # type: ignore[return-value]

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    seen = []
    for function in (compiled, total):
        given = list(leaves().values())
        value = function(*given)
        seen.append([value.detach(), *torch.autograd.grad(value, given)])
    torch.testing.assert_close(*seen)


def test_under_no_grad_and_autocast() -> None:
    given = leaves()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        quiet = ours(given, columns=True)
    expected = ours(given, columns=True)
    for name, value in quiet.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, expected[name].detach())


PLANE = Plane(torch.eye(3))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((PLANE, PLANE), {"rows": False}, InputError, "asks for nothing"),
        ((torch.eye(3), PLANE), {}, TypeError, "of must be a Plane, got Tensor"),
        ((PLANE, Mapped(Map.VOLUME, (0,))), {}, TypeError, "under must be a Plane, got Mapped"),
        ((PLANE, Plane(torch.eye(4))), {}, InputError, "same rows and columns"),
        ((PLANE, PLANE), {"scale": torch.ones(2)}, InputError, "scale must be a float, a 0-d"),
        ((PLANE, PLANE), {"scale": "1"}, TypeError, "scale must be a float or a tensor"),
        ((PLANE, PLANE), {"backend": "cuda"}, InputError, "cuda"),
        ((PLANE, PLANE), {"others": [3]}, TypeError, "others must be a list of Reduction"),
    ],
    ids=str,
)
def test_errors(
    arguments: tuple[Any, Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        expectation(*arguments, **options)
    assert str(raised.value).startswith("expectation: ")
