"""qwen3_loss: what its margin, ids and hard negatives leave in; precision with hard negatives."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from cases import own_negatives
from contrastile import InputError, Qwen3Loss, info_nce, qwen3_loss
from helpers import Arguments, cast, generator, unit_rows
from selected import rest_in_gates
from test_error_rule import SCALES, assert_rule, draw

FLAT = {"logit_scale": 0.0, "reduction": "none"}


def test_what_counts() -> None:
    """At scale 0 a row's loss is the log of how many scores its denominator has."""
    x, y, h = unit_rows(9, 6, generator(1)), unit_rows(9, 6, generator(2)), None

    def counts(*tensors: Any, **options: Any) -> list[int]:
        return qwen3_loss(*tensors, **FLAT, **options).exp().round().long().tolist()

    assert counts(x, y, margin=5.0) == [25] * 9
    assert counts(x, y, margin=5.0, query_query=False) == [17] * 9
    assert counts(x, y, margin=5.0, query_query=False, document_document=False) == [9] * 9
    assert counts(x, y, margin=-5.0) == [1] * 9
    pairs = torch.arange(9) // 2
    assert counts(x, y, margin=5.0, ids=pairs) == [22] * 8 + [25]
    h = own_negatives(9, 4, 6, generator(3))
    assert counts(x, y, h, margin=5.0) == [29] * 9
    # The positive itself is a copy, and stays with a margin; beyond one, its double does not.
    doubles = 1.5 * y[:, None]
    gained = torch.tensor(counts(x, y, doubles, margin=0.1)) - torch.tensor(counts(x, y))
    assert torch.equal(gained == 0, (x * y).sum(1) * 0.5 > 0.1)


def test_the_limit_has_no_gradient_and_each_pair_is_judged_by_its_own_score() -> None:
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    document = torch.tensor([[0.5, 0.0], [0.9, 0.5]], dtype=torch.float64, requires_grad=True)
    call: dict[str, Any] = {"logit_scale": 1.0, "query_query": False, "document_document": False}
    rows = qwen3_loss(query, document, margin=0.3, reduction="none", **call)
    # Query 0 against document 1 is at 0.9, beyond 0.5 + 0.3; query 1 against document 0 is at 0.
    expected = torch.stack([torch.tensor(0.0), torch.log1p(torch.tensor(-0.5).exp())]).double()
    torch.testing.assert_close(rows, expected)
    (got,) = torch.autograd.grad(rows[0], query, retain_graph=True)
    assert not got.any()


def test_without_blocks_and_limits_it_is_info_nce() -> None:
    given = [unit_rows(17, 6, generator(i)).requires_grad_() for i in (1, 2)]
    hard = own_negatives(17, 3, 6, generator(3)).requires_grad_()
    blocks = {"query_query": False, "document_document": False, "margin": 5.0}
    a = qwen3_loss(*given, hard, logit_scale=9.0, **blocks)
    b = info_nce(*given, negatives=hard, logit_scale=9.0)
    torch.testing.assert_close(a, b)
    leaves = (*given, hard)
    torch.testing.assert_close(torch.autograd.grad(a, leaves), torch.autograd.grad(b, leaves))


@pytest.mark.parametrize("loss", ["qwen3_loss", "info_nce"])
@pytest.mark.parametrize("regime", SCALES)
@pytest.mark.parametrize(
    "dtype", rest_in_gates([torch.float32, torch.bfloat16], [torch.float32]), ids=str
)
def test_error_rule_with_own_negatives(loss: str, regime: str, dtype: torch.dtype) -> None:
    """Near rivals of the query where all are near."""
    name = "negatives" if loss == "info_nce" else "hard_negatives"

    def make(scale: float, seed: int) -> Arguments:
        given = draw(loss, regime, scale, torch.float64, seed)
        query = given["query"].detach()
        own = own_negatives(len(query), 5, query.shape[1], generator(seed + 50))
        if regime == "rivals":
            own = torch.nn.functional.normalize(query[:, None] + 0.3 * own, dim=2)
        given = cast({**given, name: own.requires_grad_()}, dtype)
        return cast(given, torch.float32, "logit_scale", "logit_bias")

    assert_rule(loss, partial(make, SCALES[regime][1]), "cpu")


def test_the_module_is_the_function() -> None:
    given = unit_rows(9, 6, generator(1)), unit_rows(9, 6, generator(2))
    hard = own_negatives(9, 4, 6, generator(3))
    module = Qwen3Loss(temperature=0.1, margin=0.2, query_query=False)
    expected = qwen3_loss(*given, hard, temperature=0.1, margin=0.2, query_query=False)
    assert torch.equal(module(*given, hard), expected)


def test_own_negatives_with_all_that_info_nce_takes(backend: str) -> None:
    """A memory, ids, smoothing, a margin, stats: ranks count them, the denominator has them."""
    rng = generator(5)
    query, key = unit_rows(9, 6, rng), unit_rows(12, 6, rng)
    hard, past = own_negatives(9, 4, 6, rng), unit_rows(7, 6, rng)
    ids = torch.arange(9) % 4, torch.arange(12) % 5, torch.arange(7) % 3
    call: dict[str, Any] = {"logit_scale": 6.0, "margin": 0.1, "label_smoothing": 0.2}
    call |= {"reduction": "none", "return_stats": True, "backend": backend}
    call |= {"query_ids": ids[0], "key_ids": ids[1], "memory": (past, ids[2])}
    rows, stats = info_nce(query, key, negatives=hard, **call)
    for i in range(9):
        # One query alone has its own negatives in common with nobody.
        call |= {"query_ids": ids[0][i : i + 1], "positives": torch.tensor([i])}
        row, alone = info_nce(query[i : i + 1], key, negatives=hard[i], **call)
        torch.testing.assert_close(rows[i : i + 1], row)
        torch.testing.assert_close(stats.lse[i : i + 1], alone.lse)
        assert int(stats.rank[i]) == int(alone.rank)


def test_autocast_rounds_no_own_negative() -> None:
    given = [unit_rows(9, 6, generator(i)).float() for i in (1, 2)]
    hard = own_negatives(9, 4, 6, generator(3)).float()
    expected = info_nce(*given, negatives=hard, temperature=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(*given, negatives=hard, temperature=0.05), expected)


def test_refusals() -> None:
    x = torch.eye(6)
    with pytest.raises(InputError, match=r"^qwen3_loss: hard_negatives of each row's own must be"):
        qwen3_loss(x, x, torch.eye(6), temperature=0.1)
    with pytest.raises(TypeError, match=r"^qwen3_loss: hard_negatives must be a tensor, got list"):
        qwen3_loss(x, x, [1], temperature=0.1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^qwen3_loss: margin must be"):
        qwen3_loss(x, x, temperature=0.1, margin=float("nan"))
    with pytest.raises(TypeError, match=r"^qwen3_loss: query_query must be"):
        qwen3_loss(x, x, temperature=0.1, query_query="yes")  # type: ignore[arg-type]
