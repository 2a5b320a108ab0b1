"""Sweeps in Triton, its kernels run by the interpreter: what tests/test_sweep.py does not ask."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from contrastile.ops import sweep
from contrastile.problem import Above, Channel, Index, Map, Mapped, Phi, Plane, Reduction, Term
from contrastile.problem.row_loss import RowLoss
from contrastile.testing import AllocationSpy
from helpers import cast, evaluate, generator, truth
from rule import judge, transposed
from selected import rest_in_gates
from test_sweep_error_rule import THROUGH_LENGTHS, draw, ours, plain, reordered
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROWS, COLS, SIZE = 37, 53, 16
# Blocks of a few rows: the general form's sums of one are merged with those of others.
STRIPS = {"backend": "triton", "workspace": 16000}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("workspace", [None, 16000])
@pytest.mark.parametrize("scale", [1.0, 1e3, -1e3])
def test_sums_of_blocks_far_apart(scale: float, workspace: int | None) -> None:
    """Each block's largest exponents are others; in fp32 all powers but a few vanish."""
    x, y = drawn(ROWS, SIZE, seed=1).float(), drawn(COLS, SIZE, seed=2).float()
    leaves = [own.requires_grad_() for own in (x, y)]
    asked = Reduction(0, [Channel()], scale=scale, columns=True)
    (found,) = sweep([Plane(x, y)], [asked], backend="triton", workspace=workspace)
    wide = [own.detach().double().requires_grad_() for own in leaves]
    scores = scale * (wide[0] @ wide[1].T)
    for got, dim in ((found.rows[0], 1), (found.columns[0], 0)):
        torch.testing.assert_close(got.double(), scores.logsumexp(dim), rtol=2e-6, atol=1e-4)
    got = torch.autograd.grad(found.rows[0].sum() + found.columns[0].sum(), leaves)
    expected = torch.autograd.grad(scores.logsumexp(1).sum() + scores.logsumexp(0).sum(), wide)
    for mine, right in zip(got, expected, strict=True):
        # Weights are as exact as their exponents.
        limit = 1e-5 * max(abs(scale), 1.0) * right.abs().max().item()
        torch.testing.assert_close(mine.double(), right, rtol=0, atol=limit)


@pytest.mark.parametrize("workspace", [None, 16000])
def test_ranks_and_positives_that_there_are_not(workspace: int | None) -> None:
    x, y = drawn(ROWS, SIZE, seed=3), drawn(COLS, SIZE, seed=4)
    factor = drawn(COLS, seed=5)
    columns = torch.arange(ROWS).roll(5)
    columns[::4] = -1
    planes = [Plane(x, y, None, factor)]
    values = (x @ y.T) * factor
    own = values[torch.arange(ROWS), columns.clamp(min=0)]
    there = columns >= 0
    for ranks in (False, True):
        asked = Reduction(0, [Channel(~Index(columns))], positives=columns, ranks=ranks)
        (found,) = sweep(planes, [asked], backend="triton", workspace=workspace)
        assert found.positive is not None
        torch.testing.assert_close(found.positive, torch.where(there, own, 0.0))
        if ranks:
            assert found.row_rank is not None
            larger = (values > own[:, None]).sum(1)
            assert torch.equal(found.row_rank[there], larger[there])


def everything(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """All maps, mixed stats, a predicate over a plane, a row loss."""
    pairs = Index.diagonal(len(x))
    planes = [
        Plane(x, y, a, b, (0, 5)),
        Plane(x, y),
        Mapped(Map.VOLUME, (0, 1), a * a + 40.0, b + 0.1),
        Mapped(Map.SOFT_TARGET, (0, 1), a - 3.0, b - 0.1),
    ]
    above = Above(1, rows=torch.linspace(-1, 1, len(x), dtype=torch.float64))
    reductions = [
        Reduction(0, [Channel(~pairs)], columns=True),
        Reduction(1, [Channel(~pairs)], positives=pairs, row_loss=RowLoss("softmax", share=0.5)),
        Reduction(2, terms=[Term(Phi.SOFTPLUS, above)], scale=0.3, columns=True),
        Reduction(3, terms=[Term(Phi.IDENTITY, ~above)]),
    ]
    found = sweep(planes, reductions, **STRIPS)
    assert found[1].loss is not None
    sums = [own.square().sum() for stats in found for own in (*stats.rows, *stats.columns)]
    return torch.stack(sums).sum() * 1e-2 + found[1].loss


def leaves(count: int = 11) -> tuple[Tensor, ...]:
    shapes = (count, 8), (count, 8), (count,), (count,)
    return tuple(drawn(*own, seed=6 + i).requires_grad_() for i, own in enumerate(shapes))


@pytest.mark.gates
def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(everything, leaves(5))


@pytest.mark.gates
def test_the_same_bits_every_time() -> None:
    """No sum depends on which program is done first."""
    given = leaves(40)
    first, second = (torch.autograd.grad(everything(*given), given) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gates
def test_no_block_is_larger_than_its_share_of_the_workspace() -> None:
    """Planes, weights, totals and partial sums of all reductions together."""
    rows, cols, workspace = 200, 240, 2**16
    x, y = (drawn(own, SIZE, seed=own).float().requires_grad_() for own in (rows, cols))
    for count in (1, 3):
        planes = [Plane(x, y, features=(0, SIZE * (p + 1) // count)) for p in range(count)]
        with AllocationSpy() as spy:
            found = sweep(
                planes,
                [Reduction(p, [Channel()], columns=True) for p in range(count)],
                backend="triton",
                workspace=workspace,
            )
            sum(own.rows[0].sum() + own.columns[0].sum() for own in found).backward()
        vectors = (rows + cols) * (SIZE * 4 * 3 + count * 150)
        # Of the tiles of a block, small ones as the interpreter has them.
        sums = workspace // 4
        assert spy.peak_bytes <= workspace + sums + vectors
        assert workspace + sums + vectors < rows * cols * 4 * (count + 2)


@pytest.mark.parametrize(
    "dtype", rest_in_gates([torch.float32, torch.bfloat16], [torch.float32]), ids=str
)
@pytest.mark.parametrize(
    ("regime", "scale"),
    [
        ("rivals", 100.0),
        *(
            pytest.param(regime, scale, marks=pytest.mark.gates)
            for regime, scale in (
                ("random", 1.0),
                ("random", 100.0),
                ("rivals", 14.3),
                ("converged", 14.3),
                ("converged", 100.0),
            )
        ),
    ],
)
@pytest.mark.parametrize(
    "loss", ["clip_loss", pytest.param("siglip_loss", marks=pytest.mark.gates)]
)
def test_error_rule(loss: str, regime: str, scale: float, dtype: torch.dtype) -> None:
    """As tests/test_sweep_error_rule.py has it, of fewer draws: interpreted kernels are slow."""
    names = ("x", "y")
    options = {"logit_bias": -0.9 * scale} if loss == "siglip_loss" else {}
    draws = [draw(regime, scale, dtype, names, seed) for seed in range(12)]
    on_triton = partial(ours, loss, names, backend="triton", **options)
    got = transposed([evaluate(on_triton, a) for a in draws[:3]])
    theirs = transposed(
        [reordered(loss, names, {**a, **options}, seed) for seed, a in enumerate(draws)]
    )
    wide = [cast(a, torch.float64) for a in draws]
    exact = transposed([truth(partial(plain, loss, names, **options), a) for a in wide])
    unknown = 16 * torch.finfo(torch.float64).eps * scale
    for name, values in got.items():
        share = THROUGH_LENGTHS if name in names else 1.0
        what = f"{loss} {name}"
        for verdict in judge(what, values, theirs[name], exact[name], share, unknown):
            assert verdict.holds, str(verdict)
