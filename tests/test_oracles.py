"""The oracles themselves: scalar loops, torch's own losses, numbers done by hand, gradcheck."""

from __future__ import annotations

import math

import oracles
import pytest
import torch
import torch.nn.functional as F
from cases import LOSSES, arguments_for, covering_choices, default_choice
from helpers import evaluate, floats, generator, overlapping_pairs, truth, unit_rows
from torch import Tensor

LOSS_NAMES = list(LOSSES)
PAIR = ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]])


def pair() -> tuple[Tensor, Tensor]:
    x, y = PAIR
    return torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)


def pairs(rows: int = 6, columns: int = 6, size: int = 5) -> tuple[Tensor, Tensor]:
    return overlapping_pairs(rows, columns, size, generator(3))


def same(got: Tensor, expected: Tensor | float) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


def loop_lse(values: list[float]) -> float:
    return math.log(math.fsum(math.exp(v) for v in values))


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_gradients_are_finite_for_every_choice(loss: str) -> None:
    for seed, choice in enumerate(covering_choices(loss, 2, 200)):
        results = evaluate(getattr(oracles, loss), arguments_for(loss, choice, seed))
        assert all(tensor.isfinite().all() for tensor in results.values()), choice


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_gradcheck(loss: str) -> None:
    choices = [c for c in covering_choices(loss, 2, 200) if c["shape"] == (3, 3)]
    for seed, choice in enumerate(choices[:4]):
        # The detached weight of DCLW is a constant only where sigma is huge.
        choice = {**choice, "sigma": 1e12} if loss == "dclw_loss" else choice
        arguments = arguments_for(loss, choice, seed)
        leaves = {k: v for k, v in floats(arguments).items() if v.requires_grad}

        def of_leaves(*tensors: Tensor, names=tuple(leaves), rest=arguments) -> Tensor:
            return getattr(oracles, loss)(**{**rest, **dict(zip(names, tensors, strict=True))})

        assert torch.autograd.gradcheck(of_leaves, tuple(leaves.values()))


def test_info_nce_row_by_row() -> None:
    """Every option at once, as one scalar loop."""
    query, key = pairs(5, 7, 4)
    negatives = unit_rows(3, 4, generator(4))
    scale = torch.linspace(2, 9, 5, dtype=torch.float64)
    positives = torch.tensor([2, 0, -1, 6, 4])
    query_ids, key_ids = torch.tensor([1, 2, 3, 1, 5]), torch.tensor([2, 1, 1, 4, 5, 5, 1])
    margin, smoothing = 0.3, 0.2
    got = oracles.info_nce(
        query,
        key,
        positives=positives,
        negatives=negatives,
        query_ids=query_ids,
        key_ids=key_ids,
        logit_scale=scale,
        logit_bias=0.4,
        margin=margin,
        label_smoothing=smoothing,
        reduction="none",
    )
    for i, t in enumerate(positives.tolist()):
        if t < 0:
            same(got[i], 0.0)
            continue
        s = scale[i].item()
        scores = [s * (query[i] @ k).item() + 0.4 for k in torch.cat([key, negatives])]
        positive = scores[t] - s * margin
        kept = [
            score
            for j, score in enumerate(scores)
            if j != t and (j >= len(key) or key_ids[j] != query_ids[i])
        ]
        included = [positive, *kept]
        expected = loop_lse(included) - (1 - smoothing) * positive
        expected -= smoothing / len(included) * math.fsum(included)
        same(got[i], expected)


def test_info_nce_is_cross_entropy() -> None:
    query, key = pairs(5, 7)
    bias = torch.randn(7, generator=generator(5), dtype=torch.float64)
    target = torch.tensor([3, 0, 6, 1, 1])
    logits = query @ key.T / 0.2 + bias
    for smoothing in (0.0, 0.1):
        same(
            oracles.info_nce(
                query,
                key,
                positives=target,
                temperature=0.2,
                logit_bias=bias,
                label_smoothing=smoothing,
            ),
            F.cross_entropy(logits, target, label_smoothing=smoothing),
        )


def test_clip_loss_is_open_clips() -> None:
    x, y = pairs()
    logits = 20 * x @ y.T
    target = torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    same(oracles.clip_loss(x, y, logit_scale=20.0), expected)


def test_clip_loss_is_two_info_nces() -> None:
    x, y = pairs()
    ids = torch.tensor([0, 1, 0, 2, 3, 1])
    options = dict(logit_scale=8.0, margin=0.1, label_smoothing=0.1, reduction="none")
    rows = oracles.info_nce(x, y, query_ids=ids, key_ids=ids, **options)
    columns = oracles.info_nce(y, x, query_ids=ids, key_ids=ids, **options)
    same(oracles.clip_loss(x, y, ids=ids, **options), (rows + columns) / 2)


def test_nt_xent_is_cross_entropy_without_the_diagonal() -> None:
    z0, z1 = pairs()
    z = torch.cat([z0, z1])
    logits = (z @ z.T / 0.1).fill_diagonal_(float("-inf"))
    target = torch.arange(12).roll(6)
    same(oracles.nt_xent(z0, z1, temperature=0.1), F.cross_entropy(logits, target))


def test_nt_xent_is_supcon_of_two_views() -> None:
    z0, z1 = pairs()
    labels = torch.arange(6).repeat(2)
    expected = oracles.nt_xent(z0, z1, temperature=0.1)
    for variant in ("out", "in"):
        z = torch.cat([z0, z1])
        same(oracles.supcon_loss(z, labels, variant=variant, temperature=0.1), expected)


def test_nt_xent_ids_remove_both_views_of_the_same_instance() -> None:
    z0, z1 = pairs(3, 3)
    z = torch.cat([z0, z1])
    losses = oracles.nt_xent(z0, z1, ids=torch.tensor([4, 9, 4]), logit_scale=5.0, reduction="none")
    scores = (5 * z @ z.T).tolist()
    # Instances 0 and 2 are the same: rows 0, 2, 3, 5 see only the views of instance 1.
    for i, t in [(0, 3), (2, 5), (3, 0), (5, 2)]:
        same(losses[i], loop_lse([scores[i][k] for k in (1, 4, t)]) - scores[i][t])
    for i, t in [(1, 4), (4, 1)]:
        same(losses[i], loop_lse([scores[i][k] for k in range(6) if k != i]) - scores[i][t])


def test_dcl_row_by_row() -> None:
    z0, z1 = pairs(4, 4)
    z = torch.cat([z0, z1])
    scores = (7 * z @ z.T).tolist()
    agreement = [math.exp((a @ b).item() / 0.3) for a, b in zip(z0, z1, strict=True)]
    plain = oracles.dcl_loss(z0, z1, logit_scale=7.0, margin=0.2, reduction="none")
    weighted = oracles.dclw_loss(z0, z1, sigma=0.3, logit_scale=7.0, margin=0.2, reduction="none")
    for i in range(8):
        t = (i + 4) % 8
        negatives = loop_lse([scores[i][j] for j in range(8) if j not in (i, t)])
        positive = scores[i][t] - 7 * 0.2
        omega = 2 - 4 * agreement[i % 4] / math.fsum(agreement)
        same(plain[i], negatives - positive)
        same(weighted[i], negatives - omega * positive)


@pytest.mark.parametrize("variant", ["out", "in"])
def test_supcon_row_by_row(variant: str) -> None:
    z, _ = pairs()
    labels = [0, 1, 0, 0, 2, 1]
    losses = oracles.supcon_loss(
        z, torch.tensor(labels), variant=variant, logit_scale=6.0, reduction="none"
    )
    for i, label in enumerate(labels):
        scores = {j: 6 * (z[i] @ z[j]).item() for j in range(6) if j != i}
        positive = [score for j, score in scores.items() if labels[j] == label]
        if not positive:
            same(losses[i], 0.0)
        elif variant == "out":
            same(losses[i], loop_lse([*scores.values()]) - math.fsum(positive) / len(positive))
        else:
            mean_likelihood = loop_lse(positive) - math.log(len(positive))
            same(losses[i], loop_lse([*scores.values()]) - mean_likelihood)


def test_multi_positive_nce_of_one_positive_each_is_clip() -> None:
    x, y = pairs()
    ids = torch.randperm(6, generator=generator(1))
    for variant in ("out", "in"):
        got = oracles.multi_positive_nce(x, y, ids, ids, variant=variant, logit_scale=9.0)
        same(got, oracles.clip_loss(x, y, logit_scale=9.0))


def test_multi_positive_nce_by_hand() -> None:
    """Query 0 has two positives, query 1 none, key 2 none; scores are 2 <q, k>."""
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    key = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 1.0]], dtype=torch.float64)
    ids = torch.tensor([4, 5]), torch.tensor([4, 4, 6])
    options = dict(logit_scale=2.0, reduction="none")
    row = math.log(math.e**2 + math.e + 1)
    first, second = math.log(math.e**2 + 1) - 2, math.log(math.e + 1) - 1
    out = oracles.multi_positive_nce(query, key, *ids, **options)
    same(out, torch.tensor([row - 1.5, 0, first, second, 0], dtype=torch.float64))
    inside = oracles.multi_positive_nce(query, key, *ids, variant="in", **options)
    expected = row - math.log((math.e**2 + math.e) / 2)
    same(inside, torch.tensor([expected, 0, first, second, 0], dtype=torch.float64))
    mean = oracles.multi_positive_nce(query, key, *ids, logit_scale=2.0)
    same(mean, ((row - 1.5) / 2 + (first + second) / 3) / 2)
    skip = oracles.multi_positive_nce(query, key, *ids, logit_scale=2.0, empty="skip")
    same(skip, ((row - 1.5) / 1 + (first + second) / 2) / 2)


def test_siglip_is_binary_cross_entropy() -> None:
    x, y = pairs()
    ids = torch.tensor([0, 1, 0, 2, 3, 1])
    logits = 10 * x @ y.T - 4
    for labels, given in ((torch.eye(6), None), ((ids[:, None] == ids).float(), ids)):
        expected = F.binary_cross_entropy_with_logits(logits, labels.double(), reduction="sum")
        same(oracles.siglip_loss(x, y, ids=given, logit_scale=10.0, logit_bias=-4.0), expected / 6)


def test_two_pairs_by_hand() -> None:
    """Scores [[1, 0.6], [0, 0.8]]: four exponentials say it all."""
    x, y = pair()
    rows = [math.log1p(math.exp(0.6 - 1)), math.log1p(math.exp(0 - 0.8))]
    columns = [math.log1p(math.exp(0 - 1)), math.log1p(math.exp(0.6 - 0.8))]
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    same(oracles.info_nce(x, y, temperature=1.0), sum(rows) / 2)
    same(
        oracles.info_nce(x, y, temperature=1.0, weights=weights, reduction="sum"),
        rows[0] + 3 * rows[1],
    )
    same(oracles.clip_loss(x, y, temperature=1.0), (sum(rows) + sum(columns)) / 4)
    softplus = [math.log1p(math.exp(v)) for v in (-1, 0.6, 0, -0.8)]
    same(oracles.siglip_loss(x, y, logit_scale=1.0, logit_bias=0.0), sum(softplus) / 2)


def test_empty_rows_count_or_not() -> None:
    x, y = pair()
    options = dict(positives=torch.tensor([0, -1]), temperature=1.0)
    only = math.log1p(math.exp(0.6 - 1))
    same(oracles.info_nce(x, y, **options), only / 2)
    same(oracles.info_nce(x, y, empty="skip", **options), only)
    with pytest.raises(ValueError, match="empty"):
        oracles.info_nce(x, y, empty="error", **options)
    everything_equal = dict(ids=torch.zeros(2, dtype=torch.long), temperature=1.0)
    same(oracles.clip_loss(x, y, empty="skip", **everything_equal), 0.0)


def test_unit_gives_zero_rows_no_gradient() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    normalized = oracles.unit(x, True)
    same(normalized, torch.tensor([[0.6, 0.8], [0.0, 0.0]], dtype=torch.float64))
    normalized.sum().backward()
    same(x.grad[1], torch.zeros(2, dtype=torch.float64))
    assert torch.autograd.gradcheck(
        lambda t: oracles.unit(t, True), x[:1].detach().requires_grad_()
    )


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_version_at_a_low_dtype_stays_there(loss: str, dtype: torch.dtype) -> None:
    choice = default_choice(loss, shape=(17, 33), scale="logit_scale tensor")
    arguments = arguments_for(loss, choice)
    low = {k: v.detach().to(dtype).requires_grad_() for k, v in floats(arguments).items()}
    low["logit_scale"] = arguments["logit_scale"].detach().float().requires_grad_()
    plain = evaluate(getattr(oracles, loss), {**arguments, **low})
    exact = truth(getattr(oracles, loss), {**arguments, **low})
    assert plain["loss"].dtype == dtype
    relative = (plain["loss"].double() - exact["loss"]).abs() / exact["loss"].abs()
    assert relative < 32 * torch.finfo(dtype).eps
