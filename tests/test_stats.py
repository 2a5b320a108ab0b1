"""return_stats against the dense numbers: lse, positive score, rank and accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import contrastile
import contrastile.functional as losses
import oracles
import pytest
import torch
from contrastile.ops import log_sum_exp
from contrastile.problem import Channel, Index
from helpers import generator, overlapping_pairs, unit_rows
from torch import Tensor

SCALE = 6.0
ROWS = 19


@dataclass(frozen=True)
class Dense:
    """Scores of every pair; who is a rival, who a positive, who in the denominator."""

    scores: Tensor
    rivals: Tensor
    positives: Tensor
    denominator: Tensor

    @property
    def transposed(self) -> Dense:
        return Dense(self.scores.T, self.rivals.T, self.positives.T, self.denominator.T)

    @property
    def filled(self) -> Tensor:
        return self.positives.any(1) & self.denominator.any(1)

    @property
    def lse(self) -> Tensor:
        return oracles.log_sum_exp(self.scores, self.denominator)

    @property
    def positive(self) -> Tensor:
        total = torch.where(self.positives, self.scores, 0.0).sum(1)
        return total / self.positives.sum(1).clamp(min=1)

    @property
    def rank(self) -> Tensor:
        return (self.rivals & (self.scores > self.positive[:, None])).sum(1)

    @property
    def accuracy(self) -> float:
        return (self.rank[self.filled] == 0).double().mean().item()


def sides() -> tuple[Tensor, Tensor]:
    """Pairs alike enough that ranks are spread between 0 and many."""
    return overlapping_pairs(ROWS, ROWS, 5, generator(2), similarity=0.7)


def around(labels: Tensor, x: Tensor) -> Tensor:
    """Rows of equal label moved together, so that some find their positives first."""
    centres = unit_rows(int(labels.max()) + 1, 5, generator(6))
    moved = x + 1.5 * centres[labels]
    return moved / moved.norm(dim=1, keepdim=True)


def few_ids(seed: int, rows: int = ROWS) -> Tensor:
    return torch.randint(0, 12, (rows,), generator=generator(seed))


def info_nce_case() -> tuple[dict[str, Any], Dense]:
    query, key = sides()
    negatives = unit_rows(7, 5, generator(5))
    positives = torch.arange(ROWS)
    positives[3] = -1
    query_ids, key_ids = few_ids(1), few_ids(4)
    target = positives[:, None] == torch.arange(ROWS + 7)
    kept = torch.cat([query_ids[:, None] != key_ids, torch.ones(ROWS, 7, dtype=torch.bool)], 1)
    kept &= ~target
    arguments = dict(
        query=query,
        key=key,
        positives=positives,
        negatives=negatives,
        query_ids=query_ids,
        key_ids=key_ids,
    )
    scores = SCALE * query @ torch.cat([key, negatives]).T
    return arguments, Dense(scores, kept, target, kept | target)


def clip_case() -> tuple[dict[str, Any], Dense]:
    x, y = sides()
    target = torch.eye(ROWS, dtype=torch.bool)
    kept = oracles.others(few_ids(1), ROWS)
    dense = Dense(SCALE * x @ y.T, kept, target, kept | target)
    return dict(x=x, y=y, ids=few_ids(1)), dense


def two_view_case(decoupled: bool) -> tuple[dict[str, Any], Dense]:
    z0, z1 = sides()
    z = torch.cat([z0, z1])
    kept = oracles.others(few_ids(1), ROWS).repeat(2, 2)
    target = torch.eye(2 * ROWS, dtype=torch.bool).roll(ROWS, 0)
    dense = Dense(SCALE * z @ z.T, kept, target, kept if decoupled else kept | target)
    return dict(z0=z0, z1=z1, ids=few_ids(1)), dense


def supcon_case() -> tuple[dict[str, Any], Dense]:
    labels = few_ids(1)
    z = around(labels, sides()[0])
    everyone = ~torch.eye(ROWS, dtype=torch.bool)
    same = everyone & (labels[:, None] == labels)
    return dict(z=z, labels=labels), Dense(SCALE * z @ z.T, everyone & ~same, same, everyone)


def multi_positive_case() -> tuple[dict[str, Any], Dense]:
    query_ids, key_ids = few_ids(1), few_ids(4)
    query, key = around(query_ids, sides()[0]), around(key_ids, sides()[1])
    same = query_ids[:, None] == key_ids
    dense = Dense(SCALE * query @ key.T, ~same, same, torch.ones_like(same))
    arguments = dict(query=query, key=key, query_ids=query_ids, key_ids=key_ids, direction="rows")
    return arguments, dense


CASES = {
    "info_nce": info_nce_case,
    "clip_loss": clip_case,
    "nt_xent": lambda: two_view_case(decoupled=False),
    "dcl_loss": lambda: two_view_case(decoupled=True),
    "dclw_loss": lambda: two_view_case(decoupled=True),
    "supcon_loss": supcon_case,
    "multi_positive_nce": multi_positive_case,
}


def check(stats: contrastile.Stats, dense: Dense) -> None:
    assert 0 < dense.accuracy < 1, "the case decides nothing"
    filled = dense.filled
    for got, expected in ((stats.lse, dense.lse), (stats.positive, dense.positive)):
        torch.testing.assert_close(got[filled], expected[filled], rtol=1e-10, atol=1e-10)
    assert torch.equal(stats.rank[filled], dense.rank[filled])
    assert stats.accuracy.item() == pytest.approx(dense.accuracy, abs=1e-6)


@pytest.mark.parametrize("loss", CASES)
def test_stats_are_the_dense_ones(loss: str, backend: str) -> None:
    arguments, dense = CASES[loss]()
    value, stats = getattr(losses, loss)(
        **arguments, logit_scale=SCALE, backend=backend, return_stats=True
    )
    check(stats, dense)
    alone = getattr(losses, loss)(**arguments, logit_scale=SCALE, backend=backend)
    torch.testing.assert_close(value, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", ["clip_loss", "multi_positive_nce"])
def test_two_directions_have_stats_of_both(loss: str, backend: str) -> None:
    arguments, dense = CASES[loss]()
    arguments.pop("direction", None)
    _, stats = getattr(losses, loss)(
        **arguments, logit_scale=SCALE, backend=backend, return_stats=True
    )
    check(stats, dense)
    check(stats.columns, dense.transposed)


@pytest.mark.parametrize("loss", ["info_nce", "clip_loss", "multi_positive_nce"])
def test_a_bias_of_all_scores_is_shown(loss: str, backend: str) -> None:
    """Losses do without it, as it cancels."""
    arguments, dense = CASES[loss]()
    bias = torch.tensor(-2.1, dtype=torch.float64)
    _, stats = getattr(losses, loss)(
        **arguments, logit_scale=SCALE, logit_bias=bias, backend=backend, return_stats=True
    )
    check(stats, replace(dense, scores=dense.scores + bias))


def test_without_a_positive_negatives_are_all(backend: str) -> None:
    arguments, dense = info_nce_case()
    _, stats = losses.info_nce(**arguments, logit_scale=SCALE, backend=backend, return_stats=True)
    torch.testing.assert_close(stats.lse, dense.lse, rtol=1e-10, atol=1e-10)
    assert stats.positive[3] == 0


def test_siglip_stats_rank_the_diagonal(backend: str) -> None:
    x, y = sides()
    scores = SCALE * x @ y.T - 2.0
    positive = scores.diagonal()
    rank = (scores > positive[:, None]).sum(1)
    _, stats = losses.siglip_loss(
        x, y, logit_scale=SCALE, logit_bias=-2.0, backend=backend, return_stats=True
    )
    torch.testing.assert_close(stats.positive, positive, rtol=1e-10, atol=1e-10)
    assert torch.equal(stats.rank.long(), rank)
    assert float(stats.accuracy) == pytest.approx((rank == 0).double().mean().item())


@pytest.mark.parametrize("loss", CASES)
def test_stats_are_detached_and_change_no_gradient(loss: str, backend: str) -> None:
    arguments, _ = CASES[loss]()
    gradients = []
    for wanted in (False, True):
        leaves = {
            name: tensor.clone().requires_grad_()
            for name, tensor in arguments.items()
            if isinstance(tensor, Tensor) and tensor.is_floating_point()
        }
        result = getattr(losses, loss)(
            **{**arguments, **leaves}, logit_scale=SCALE, backend=backend, return_stats=wanted
        )
        if wanted:
            result, stats = result
            for tensor in (stats.lse, stats.positive, stats.rank, stats.accuracy):
                assert not torch.as_tensor(tensor).requires_grad
        result.backward()
        gradients.append([leaf.grad for leaf in leaves.values()])
    for without, with_stats in zip(*gradients, strict=True):
        torch.testing.assert_close(without, with_stats, rtol=1e-12, atol=1e-14)


def twice(size: int, dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Pairs near each other, each of them twice in the batch."""
    x, y = overlapping_pairs(60, 60, size, generator(seed))
    near = torch.nn.functional.normalize(y + 0.3 * x, dim=1)
    return [torch.cat([side, side]).to(dtype) for side in (near, y)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [16, 64, 256])
def test_copies_of_the_positive_are_not_above_it(size: int, dtype: torch.dtype) -> None:
    """Whatever the order that their dot products were summed in."""
    calls = {
        "clip_loss": lambda x, y: losses.clip_loss(x, y, temperature=0.07, return_stats=True),
        "info_nce": lambda x, y: losses.info_nce(
            x, y, negatives=y[:, None], temperature=0.07, return_stats=True
        ),
        "siglip_loss": lambda x, y: losses.siglip_loss(
            x, y, logit_scale=10.0, logit_bias=-10.0, return_stats=True
        ),
    }
    for seed in range(3):
        given = twice(size, dtype, seed)
        for name, call in calls.items():
            _, stats = call(*given)
            assert stats.accuracy == 1.0, name


@pytest.mark.parametrize("scale", [10.0, 0.3, 14.3, torch.tensor(7.7)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_scores_are_not_above(
    dtype: torch.dtype, scale: float | Tensor, engine: dict[str, Any]
) -> None:
    """Of whole numbers, whose dot products are exact; beside the positive and given thresholds."""
    for seed in range(4):
        x, y = torch.randint(-3, 4, (2, 7, 3), generator=generator(seed)).to(dtype)
        dots, own = x @ y.T, Index.diagonal(7)
        limits = dots.diagonal()
        others = {"channels": [Channel(~own)], "scale": scale, "ranks": True, "columns": True}
        for compared in (
            {"positives": own},
            {"row_thresholds": limits * scale, "col_thresholds": limits * scale},
        ):
            found = log_sum_exp(x, y, **others, **compared, **engine)
            assert torch.equal(found.row_rank, (dots > limits[:, None]).sum(1))
            assert torch.equal(found.col_rank, (dots > limits).sum(0))


def test_infinite_thresholds(engine: dict[str, Any]) -> None:
    """All scores are above minus infinity, none above infinity or what is no number."""
    x, y = torch.randn(2, 6, 4, generator=generator(1), dtype=torch.float64)
    limits = torch.tensor([-torch.inf, torch.inf, torch.nan, -1e300, 1e300, -torch.inf]).double()
    found = log_sum_exp(x, y, scale=2.0, row_thresholds=limits, ranks=True, **engine)
    assert found.row_rank.tolist() == [6, 0, 0, 6, 0, 6]


@pytest.mark.parametrize("bias", [-1e9, -1e4, 1e9])
def test_a_bias_of_one_column_rounds_no_other(bias: float, engine: dict[str, Any]) -> None:
    """That of a mask, say: the ranks among the other columns stay."""
    x, y = torch.randn(2, 6, 8, generator=generator(2))
    biases = torch.zeros(6)
    biases[3] = bias
    others = [Channel(~Index.diagonal(6))]
    found = log_sum_exp(
        x, y, channels=others, positives=Index.diagonal(6), ranks=True, col_bias=biases, **engine
    )
    scores = x.double() @ y.double().T + biases
    own = scores.diagonal()[:, None]
    assert torch.equal(found.row_rank, (scores > own).sum(1))
