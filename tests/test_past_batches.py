"""Losses with embeddings of past batches, against formulas in fp64 with all scores in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import contrastile
import pytest
import torch
import torch.distributed as dist
from contrastile import InputError, MemoryQueue, clip_loss, info_nce, supcon_loss
from contrastile.testing import AllocationSpy
from helpers import generator
from past import SCALE, D, K, N, batch, dense_clip, dense_info_nce, dense_supcon, kept_of
from processes import Processes
from torch import Tensor
from torch.nn.functional import normalize


def close(found: Tensor, wanted: Tensor, *leaves: Tensor, tolerance: float = 1e-10) -> None:
    """Rows, and the gradients of a weighted sum of them."""
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    upstream = torch.linspace(0.5, 1.5, len(wanted), dtype=torch.float64)
    grads = [
        torch.autograd.grad((own * upstream).sum(), leaves, allow_unused=True)
        for own in (found, wanted)
    ]
    for own, truth in zip(*grads, strict=True):
        torch.testing.assert_close(own, truth, rtol=tolerance, atol=tolerance)


OPTIONS = [{}, {"margin": 0.2}, {"label_smoothing": 0.1}, {"margin": 0.2, "label_smoothing": 0.1}]


@pytest.mark.parametrize("past", [0, 1, K])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_info_nce_and_clip_loss(options: dict[str, float], ids: bool, past: int) -> None:
    made = batch(1, past=past)
    x, y, past_x, past_y = (made[name] for name in ("x", "y", "past_x", "past_y"))
    own, codes = (made["ids"], (made["past_ids"],)) if ids else (None, ())
    kept = kept_of(own, made["past_ids"], N, past)
    extra = options.get("margin", 0.0), options.get("label_smoothing", 0.0)
    shared: dict[str, Any] = {"logit_scale": SCALE, "reduction": "none", **options}
    if options.keys() == {"margin", "label_smoothing"}:
        shared["logit_bias"] = torch.tensor(0.3)
    found = info_nce(x, y, memory=(past_y, *codes), query_ids=own, key_ids=own, **shared)
    close(found, dense_info_nce(x, y, past_y, kept, *extra), x, y)
    found = clip_loss(x, y, memory=(past_x, past_y, *codes), ids=own, **shared)
    close(found, dense_clip(x, y, (past_x, past_y), kept, *extra), x, y)


@pytest.mark.parametrize("past", [0, 1, K])
@pytest.mark.parametrize("variant", ["out", "in"])
def test_supcon_loss(variant: str, past: int) -> None:
    made = batch(2, past=past)
    z, labels, earlier, past_labels = (made[k] for k in ("x", "ids", "past_x", "past_ids"))
    found = supcon_loss(
        z,
        labels,
        memory=(earlier, past_labels),
        variant=variant,
        logit_scale=SCALE,
        reduction="none",
    )
    close(found, dense_supcon(z, labels, earlier, past_labels, variant), z)


@pytest.mark.parametrize("scale", [14.3, 100.0])
@pytest.mark.parametrize("noise", [1.2, 0.1, 0.001])
def test_supcon_loss_is_as_exact_as_the_formula(noise: float, scale: float) -> None:
    """In fp32, on average over inputs, however much the positives agree; up to two roundings."""
    errors = {"ours": 0.0, "dense": 0.0}
    rounding, draws = 0.0, 16
    for seed in range(draws):
        rng = generator(seed)
        centres = torch.randn(6, 32, generator=rng)
        labels, past_labels = torch.arange(48) % 6, torch.arange(90) % 6
        z, past = (
            normalize(centres[own] + noise * torch.randn(len(own), 32, generator=rng), dim=1)
            for own in (labels, past_labels)
        )
        whole = (z.double(), labels, past.double(), past_labels, "out", scale)
        truth = dense_supcon(*whole).mean()
        ours = supcon_loss(z, labels, memory=(past, past_labels), logit_scale=scale)
        dense = dense_supcon(z, labels, past, past_labels, "out", scale).mean()
        errors["ours"] += float((ours - truth).abs())
        errors["dense"] += float((dense - truth).abs())
        rounding += float(truth) * 2**-24
    assert errors["ours"] <= errors["dense"] + 2 * rounding


def test_every_engine(engine: dict[str, Any]) -> None:
    """However scores are cut, and by all backends."""
    made = batch(9)
    x, y, ids, codes = (made[name] for name in ("x", "y", "ids", "past_ids"))
    past = made["past_x"], made["past_y"]
    shared: dict[str, Any] = {"logit_scale": SCALE, "reduction": "none", **engine}
    kept = kept_of(ids, codes, N, K)
    found = clip_loss(x, y, ids=ids, memory=(*past, codes), **shared)
    close(found, dense_clip(x, y, past, kept), x, y)
    found = supcon_loss(x, ids, memory=(past[0], codes), **shared)
    close(found, dense_supcon(x, ids, past[0], codes, "out"), x)


@pytest.mark.parametrize("loss", ["info_nce", "clip_loss", "supcon_loss"])
def test_scores_with_the_past_are_never_stored(loss: str) -> None:
    rows, past_rows = 512, 8192
    rng = generator(0)
    x, y = (torch.randn(rows, 16, generator=rng).requires_grad_() for _ in range(2))
    past, labels = torch.randn(past_rows, 16, generator=rng), torch.arange(past_rows)
    options: dict[str, Any] = {"temperature": 1.0, "workspace": 2**18}
    with AllocationSpy() as spy:
        if loss == "info_nce":
            info_nce(x, y, memory=(past,), **options).backward()
        elif loss == "clip_loss":
            clip_loss(x, y, memory=(past, past), **options).backward()
        else:
            supcon_loss(x, labels[:rows], memory=(past, labels), **options).backward()
    assert spy.peak_bytes < rows * past_rows


def test_a_row_whose_only_positive_is_past() -> None:
    made = batch(3, count=2, past=3)
    labels, past_labels = torch.tensor([0, 1]), torch.tensor([1, 2, 1])
    call: dict[str, Any] = {
        "memory": (made["past_x"], past_labels),
        "logit_scale": SCALE,
        "reduction": "none",
    }
    found = supcon_loss(made["x"], labels, **call)
    close(found, dense_supcon(made["x"], labels, made["past_x"], past_labels, "out"), made["x"])
    assert found[0] == 0 and found[1] > 0


@pytest.mark.parametrize("loss", ["info_nce", "clip_loss", "supcon_loss"])
def test_stats_count_the_past(loss: str) -> None:
    """lse, ranks and accuracy as of one set that has both, whose own rows alone are asked."""
    made = batch(4)
    x, y, ids, codes = (made[name].detach() for name in ("x", "y", "ids", "past_ids"))
    past_x, past_y = made["past_x"], made["past_y"]
    shared: dict[str, Any] = {"logit_scale": SCALE, "return_stats": True}
    eye = torch.eye(N, N + K, dtype=torch.bool)
    if loss == "supcon_loss":
        _, stats = supcon_loss(x, ids, memory=(past_x, codes), **shared)
        scores = SCALE * x @ torch.cat([x, past_x]).T
        same = (ids[:, None] == torch.cat([ids, codes])) & (ids[:, None] != -1) & ~eye
        positive = (scores * same).sum(1) / same.sum(1).clamp(min=1)
        above = (scores > positive[:, None]) & ~same & ~eye
        torch.testing.assert_close(stats.lse, scores.masked_fill(eye, -torch.inf).logsumexp(1))
        torch.testing.assert_close(stats.positive, positive)
        assert torch.equal(stats.rank, above.sum(1))
        return
    sides = [(x, y, past_y)]
    if loss == "info_nce":
        _, rows = info_nce(x, y, memory=(past_y, codes), query_ids=ids, key_ids=ids, **shared)
        seen = [rows]
    else:
        _, rows = clip_loss(x, y, memory=(past_x, past_y, codes), ids=ids, **shared)
        seen, sides = [rows, rows.columns], [*sides, (y, x, past_x)]
    kept = kept_of(ids, codes, N, K)
    for stats, (query, key, past) in zip(seen, sides, strict=True):
        scores = SCALE * query @ torch.cat([key, past]).T
        above = (scores > scores.diagonal()[:, None]) & kept & ~eye
        torch.testing.assert_close(stats.lse, scores.masked_fill(~kept, -torch.inf).logsumexp(1))
        assert torch.equal(stats.rank, above.sum(1))
        assert float(stats.accuracy) == pytest.approx(float((stats.rank == 0).float().mean()))


def test_normalize_and_half_precision() -> None:
    made = batch(5)
    x, y, past = made["x"].detach().float() * 3, made["y"].detach().float(), 2 * made["past_y"]
    queue = MemoryQueue(K, D, dtype=torch.float16)
    queue.enqueue(past)
    found = info_nce(x, y, memory=(queue.keys(),), logit_scale=SCALE, normalize=True)
    kept = kept_of(None, None, N, K)
    truth = dense_info_nce(made["x"], made["y"], made["past_y"], kept).mean().detach()
    assert abs(float(found) - float(truth)) < 2e-3


def test_nothing_is_learned_of_the_past() -> None:
    made = batch(6)
    past = made["past_y"].requires_grad_()
    info_nce(made["x"], made["y"], memory=(past,), logit_scale=SCALE).backward()
    assert past.grad is None and made["x"].grad is not None


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (torch.ones(3, D), r"memory must be a tuple of past \(x, y\), got Tensor"),
        ((torch.ones(3, D),), r"memory must be a tuple of past \(x, y\), got 1"),
        ((torch.ones(3, D), torch.ones(3, D), torch.ones(3)), "only if, the call has ids"),
        ((torch.ones(3, D), torch.ones(4, D)), "y of memory .4, 5."),
        ((torch.ones(3, D), torch.ones(3, 2)), "y of memory .3, 2."),
        ((torch.ones(3, D), torch.ones(3, D, dtype=torch.int64)), "y of memory must be float32"),
    ],
)
def test_wrong_memory(memory: Any, message: str) -> None:
    x = torch.ones(2, D)
    with pytest.raises(InputError, match=f"clip_loss: .*{message}"):
        clip_loss(x, x, memory=memory, temperature=0.5)


def test_clip_loss_has_one_scale_with_a_memory() -> None:
    x = torch.ones(2, D)
    with pytest.raises(InputError, match="the scale must be one number"):
        clip_loss(x, x, memory=(x, x), logit_scale=torch.ones(2))


def test_the_module_takes_a_memory_with_each_call() -> None:
    made = batch(7)
    x, y, memory = made["x"], made["y"], (made["past_x"], made["past_y"])
    module = contrastile.ClipLoss(logit_scale=SCALE)
    assert torch.equal(
        module(x, y, memory=memory), clip_loss(x, y, memory=memory, logit_scale=SCALE)
    )
    assert not torch.equal(module(x, y, memory=memory), module(x, y))


# Several ranks.


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(2)
    yield pool
    pool.stop()


def compare_ranks(loss: str, convention: str, shards: bool) -> None:
    """A rank's value and gradients against the formula of all rows."""
    rank, sizes = dist.get_rank(), (4, N - 4)
    made = batch(8)
    x, y, ids = (made[name] for name in ("x", "y", "ids"))
    past_x, past_y, codes = (made[name] for name in ("past_x", "past_y", "past_ids"))
    own_x, own_y = (t.detach().split(sizes)[rank].clone().requires_grad_() for t in (x, y))
    own_ids, scale = ids.split(sizes)[rank], torch.tensor(SCALE, dtype=torch.float64)
    scale.requires_grad_()
    shared: dict[str, Any] = {
        "logit_scale": scale,
        "group": dist.group.WORLD,
        "grad_scale": convention,
    }
    kept = kept_of(None if shards else ids, codes, N, K)
    if shards:
        queue = MemoryQueue(K, D, dtype=torch.float64)
        queue.enqueue(past_y.split((8, K - 8))[rank])
        found = info_nce(own_x, own_y, negatives=queue.keys(), **shared)
        truth = dense_info_nce(x, y, past_y, kept).mean()
    elif loss == "info_nce":
        both = {"query_ids": own_ids, "key_ids": own_ids}
        found = info_nce(own_x, own_y, memory=(past_y, codes), **both, **shared)
        truth = dense_info_nce(x, y, past_y, kept).mean()
    elif loss == "clip_loss":
        found = clip_loss(own_x, own_y, memory=(past_x, past_y, codes), ids=own_ids, **shared)
        truth = dense_clip(x, y, (past_x, past_y), kept).mean()
    else:
        found = supcon_loss(own_x, own_ids, memory=(past_x, codes), **shared)
        truth = dense_supcon(x, ids, past_x, codes, "out").mean()
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-10)
    found.backward()
    truth.backward()
    factor = 2 if convention == "ddp" else 1
    for own, whole in ((own_x, x), (own_y, y)):
        if whole.grad is not None:
            wanted = factor * whole.grad.split(sizes)[rank]
            torch.testing.assert_close(own.grad, wanted, rtol=1e-10, atol=1e-10)
    if loss == "info_nce":
        # Each score is linear in the scale, and so is its part of x's gradient.
        assert scale.grad is not None and x.grad is not None
        if convention != "none":
            dist.all_reduce(scale.grad)
        wanted = factor * (x.detach() * x.grad).sum() / SCALE
        torch.testing.assert_close(scale.grad, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("convention", ["ddp", "sum", "none"])
@pytest.mark.parametrize("loss", ["info_nce", "clip_loss", "supcon_loss"])
def test_a_memory_of_all_ranks_counts_once(
    loss: str, convention: str, processes: Processes
) -> None:
    processes.run(compare_ranks, loss, convention, False)


def test_each_rank_has_a_part_of_the_negatives(processes: Processes) -> None:
    processes.run(compare_ranks, "info_nce", "ddp", True)


def other_memory() -> str:
    x = torch.ones(2, D)
    past = torch.ones(3 + dist.get_rank(), D)
    with pytest.raises(InputError) as raised:
        clip_loss(x, x, memory=(past, past), temperature=0.5, group=dist.group.WORLD)
    return str(raised.value)


def test_ranks_with_other_memories_are_refused(processes: Processes) -> None:
    for text in processes.run(other_memory):
        assert "they differ in memory (rank 0 float32" in text and "of 4 rows" in text
