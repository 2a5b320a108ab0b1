"""distill_clip_loss: open_clip's class, teachers that learn, the error rule, and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import oracles
import pytest
import torch
import torch.distributed as dist
from clients import describe_torchvision, needs
from contrastile import (
    DistillClipLoss,
    InputError,
    clip_loss,
    distill_clip_loss,
    matryoshka,
)
from helpers import (
    Arguments,
    Results,
    assert_results_close,
    cast,
    crowded_pairs,
    evaluate,
    generator,
    overlapping_pairs,
    truth,
    unit_rows,
)
from processes import Processes
from rule import judge, pooled, transposed
from selected import rest_in_gates
from torch import Tensor
from torch.nn.functional import normalize

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROWS, SIZE = 23, 6
SETS = ("x", "y", "teacher_x", "teacher_y")


def drawn(n: int = ROWS, teacher_size: int = 9, seed: int = 0) -> Arguments:
    """Everything learns: all sets, and both scales."""
    rng = generator(seed)
    student, teacher = (overlapping_pairs(n, n, size, rng) for size in (SIZE, teacher_size))
    made: Arguments = dict(zip(SETS, (*student, *teacher), strict=True))
    made |= {"logit_scale": torch.tensor(14.3), "teacher_scale": torch.tensor(20.0)}
    return {name: value.double().requires_grad_() for name, value in made.items()}


@pytest.mark.parametrize("frozen", [(), SETS[:2], SETS[2:], ("x", "teacher_y")], ids=str)
@pytest.mark.parametrize("reduction", rest_in_gates(["mean", "none"], ["none"]))
def test_gradients_of_both(
    reduction: str, frozen: tuple[str, ...], engine_of_planes: dict[str, Any]
) -> None:
    """Through the student, and through the teacher where that learns."""
    given = {k: v.detach() if k in frozen else v for k, v in drawn().items()}
    given["reduction"] = reduction
    got = evaluate(partial(distill_clip_loss, **engine_of_planes), given)
    assert_results_close(got, evaluate(oracles.distill_clip_loss, given))


def test_gradcheck() -> None:
    names = list(drawn(5))

    def loss(*tensors: Tensor) -> Tensor:
        return distill_clip_loss(**dict(zip(names, tensors, strict=True)))

    assert torch.autograd.gradcheck(loss, list(drawn(5).values()))


def test_the_teachers_scale_is_the_students_by_default() -> None:
    given = drawn()
    del given["teacher_scale"]
    got = evaluate(distill_clip_loss, given)
    explicit = {**given, "teacher_scale": given["logit_scale"].detach()}
    assert_results_close(got, evaluate(distill_clip_loss, explicit))


def test_a_student_that_is_its_teacher() -> None:
    """The gradient is that of no error: 0. The loss is the entropy of the targets."""
    given = drawn()
    x, y = (given[name].detach().requires_grad_() for name in SETS[:2])
    rows = distill_clip_loss(x, y, x.detach(), y.detach(), logit_scale=14.3, reduction="none")
    rows.sum().backward()
    scores = 14.3 * x.detach() @ y.detach().T
    entropy = sum(torch.special.entr(scores.softmax(d)).sum(d) for d in (0, 1)) / 2
    torch.testing.assert_close(rows.detach(), entropy)
    for leaf in (x, y):
        assert leaf.grad is not None and leaf.grad.abs().max() < 1e-13


@needs("open_clip", "torchvision")
@pytest.mark.parametrize("learns", [False, True])
def test_open_clip(learns: bool) -> None:
    """Value and gradients of its class: the plain loss is clip_loss, the other one this."""
    describe_torchvision()
    from open_clip.loss import DistillClipLoss as Theirs

    given = drawn(24)
    if not learns:
        given = {k: v.detach() if "teacher" in k else v for k, v in given.items()}
    order = ("x", "y", "logit_scale", "teacher_x", "teacher_y", "teacher_scale")

    def theirs(part: int, **own: Tensor) -> Tensor:
        found: tuple[Tensor, Tensor] = Theirs()(*(own[name] for name in order))
        return found[part]

    def both(**own: Tensor) -> Tensor:
        return theirs(0, **own) + theirs(1, **own)

    def ours(**own: Tensor) -> Tensor:
        plain = clip_loss(own["x"], own["y"], logit_scale=own["logit_scale"])
        return plain + distill_clip_loss(**own)

    alone = evaluate(distill_clip_loss, given)
    assert_results_close(alone, evaluate(partial(theirs, 1), given))
    assert_results_close(evaluate(ours, given), evaluate(both, given))


DRAWS, LENGTH = 24, 72
REGIMES = {
    "random": [1.0, 14.3, 100.0],
    "rivals": [1.0, 14.3, 50.0, 100.0],
    "converged": [14.3, 50.0, 100.0],
}


def draw(regime: str, scale: float, seed: int) -> Arguments:
    rng, n = generator(seed), 107
    if regime == "converged":
        items = unit_rows(n, LENGTH, rng)
        noise = [1e-3 * (seed % 2) * unit_rows(n, LENGTH, rng) for _ in SETS]
        sets = [normalize(items + own, dim=1) for own in noise]
    else:
        make = crowded_pairs if regime == "rivals" else overlapping_pairs
        sets = [*make(n, n, LENGTH, rng), *make(n, n, LENGTH, rng)]
    made: Arguments = dict(zip(SETS, sets, strict=True))
    scales = {"logit_scale": scale, "teacher_scale": 0.7 * scale}
    made |= {name: torch.tensor(value) for name, value in scales.items()}
    return {name: value.float().requires_grad_() for name, value in made.items()}


def in_another_order(given: Arguments, seed: int) -> Results:
    """The plain formula on permuted features: the order of a sum is luck."""
    order = torch.randperm(LENGTH, generator=generator(seed))
    moved = {k: v.detach()[:, order] if k in SETS else v.detach() for k, v in given.items()}
    found = evaluate(oracles.distill_clip_loss, {k: v.requires_grad_() for k, v in moved.items()})
    return {k: v[:, order.argsort()] if k in SETS else v for k, v in found.items()}


@cache
def setting(
    regime: str, scale: float
) -> tuple[list[Arguments], dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    draws = [draw(regime, scale, seed) for seed in range(DRAWS)]
    theirs = [in_another_order(given, seed) for seed, given in enumerate(draws)]
    exact = [truth(oracles.distill_clip_loss, given) for given in draws]
    return draws, transposed(theirs), transposed(exact)


@pytest.mark.parametrize("regime", REGIMES)
def test_error_rule(regime: str, backend: str) -> None:
    """At most the plain formula's error, where student and teacher converge too, and learn."""
    every: dict[str, list[list[Any]]] = {}
    for scale in REGIMES[regime]:
        draws, theirs, exact = setting(regime, scale)
        function = partial(distill_clip_loss, backend=backend)
        got = transposed([evaluate(function, given) for given in draws])
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
def test_a_teacher_of_another_dtype(dtype: torch.dtype, backend: str) -> None:
    given = cast(cast(drawn(), torch.float32), dtype, *SETS[2:])
    got = evaluate(partial(distill_clip_loss, backend=backend), given)
    for name, exact in truth(oracles.distill_clip_loss, given).items():
        own = dtype if name in SETS[2:] else torch.float32
        assert got[name].dtype == own
        limit = 32 * torch.finfo(own).eps * exact.abs().max().item()
        torch.testing.assert_close(got[name].double(), exact, rtol=0, atol=limit)


def test_stats_are_the_students() -> None:
    given = {k: v.detach() for k, v in drawn().items()}
    loss, stats = distill_clip_loss(**given, return_stats=True)
    own = {k: given[k] for k in ("x", "y", "logit_scale")}
    _, expected = clip_loss(**own, return_stats=True)
    for side, other in ((stats, expected), (stats.columns, expected.columns)):
        assert torch.equal(side.rank, other.rank)
        torch.testing.assert_close(side.lse, other.lse)
        torch.testing.assert_close(side.positive, other.positive)
        torch.testing.assert_close(side.accuracy, other.accuracy)
    torch.testing.assert_close(loss, distill_clip_loss(**given))


def test_module_and_matryoshka() -> None:
    """A teacher is not cut."""
    given = {k: v.detach() for k, v in drawn().items()}
    sets = [given[name] for name in SETS]
    module = DistillClipLoss(logit_scale=9.0, teacher_scale=20.0)
    options = {"logit_scale": 9.0, "teacher_scale": 20.0}
    torch.testing.assert_close(module(*sets), distill_clip_loss(*sets, **options))
    options |= {"normalize": True}
    expected = sum(
        distill_clip_loss(*(x[:, :m] for x in sets[:2]), *sets[2:], **options) for m in (3, 6)
    )
    found = matryoshka(distill_clip_loss, *sets, dims=(3, 6), **options)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_x": torch.ones(4, 9)}, "row i of teacher_x belongs to row i of teacher_y"),
        (dict.fromkeys(SETS[2:], torch.ones(4, 3).double()), "teacher_x must have an embedding"),
        ({"teacher_scale": torch.ones(ROWS)}, "teacher_scale must be a float, a 0-d"),
        ({"teacher_scale": float("nan")}, "teacher_scale"),
        ({"logit_scale": torch.ones(ROWS)}, "the scale must be one number"),
        ({"exchange": "ring", "offload": "cpu"}, "leave offload out"),
    ],
    ids=["teacher_y", "rows", "a scale a row", "nan", "scale", "offload"],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        distill_clip_loss(**{**drawn(), **changes})
    assert str(raised.value).startswith("distill_clip_loss: ")


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(2)
    yield pool
    pool.stop()


def over_ranks(sizes: tuple[int, int], convention: str, options: dict[str, Any]) -> None:
    """A rank's value and gradients, the teacher's too, against one process that has all rows."""
    rank, total = dist.get_rank(), sum(sizes)
    whole = {**drawn(total), **options}
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    own = {k: v.detach()[rows] if k in SETS else v for k, v in whole.items()}
    own = {k: v.detach().requires_grad_() if isinstance(v, Tensor) else v for k, v in own.items()}
    group = {"group": dist.group.WORLD, "grad_scale": convention}
    got = evaluate(partial(distill_clip_loss, **group), own)
    expected = evaluate(oracles.distill_clip_loss, whole)
    for name, value in expected.items():
        mine = got[name].clone()
        if name in ("logit_scale", "teacher_scale") and convention != "none":
            dist.all_reduce(mine)
        if convention == "ddp" and name != "loss":
            mine = mine / dist.get_world_size()
        torch.testing.assert_close(mine, value[rows] if name in SETS else value)


@pytest.mark.parametrize("convention", ["ddp", "sum", "none"])
@pytest.mark.parametrize("sizes", [(4, 4), (2, 7), (5, 0)], ids=str)
def test_ranks(sizes: tuple[int, int], convention: str, processes: Processes) -> None:
    for options in ({}, {"normalize": True, "reduction": "sum"}):
        processes.run(over_ranks, sizes, convention, options)
