"""gram_loss against determinants, dense and in fp64: values, gradients, edges, and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from contrastile import GramLoss, InputError, Matryoshka, gram_loss, matryoshka
from contrastile.testing import AllocationSpy
from helpers import assert_results_close, generator
from processes import Processes
from rule import judge
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROWS, SIZE = 23, 7


def formula(
    sets: Sequence[Tensor],
    scale: Tensor | float,
    *,
    label_smoothing: float = 0.0,
    normalize: bool = False,
    weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """By the determinant of each pair's own Gram matrix."""
    anchor, *items = [F.normalize(x, dim=1) for x in sets] if normalize else sets
    n = len(anchor)
    gram = torch.empty(n, n, len(sets), len(sets), dtype=anchor.dtype)
    gram[..., 0, 0] = anchor.square().sum(1)[:, None]
    for a, x in enumerate(items, 1):
        gram[..., 0, a] = gram[..., a, 0] = anchor @ x.T
        for b, y in enumerate(items, 1):
            gram[..., a, b] = (x * y).sum(1)
    scores = -scale * torch.linalg.det(gram).sqrt()
    target = torch.arange(n)
    rows, cols = (
        F.cross_entropy(s, target, label_smoothing=label_smoothing, reduction="none")
        for s in (scores, scores.T)
    )
    losses = (rows + cols) / 2 * (1.0 if weights is None else weights)
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


def drawn(count: int, n: int = ROWS, size: int = SIZE, seed: int = 0) -> list[Tensor]:
    """An anchor and so many modalities, which share what they are about."""
    rng = generator(seed)
    shared = torch.randn(n, size, generator=rng, dtype=torch.float64)
    noise = torch.randn(count + 1, n, size, generator=rng, dtype=torch.float64)
    return [F.normalize(shared + own, dim=1).requires_grad_() for own in noise]


def evaluated(loss: Tensor, leaves: Sequence[Tensor]) -> dict[str, Tensor]:
    upstream = torch.randn(loss.shape, generator=generator(5), dtype=torch.float64).to(loss.dtype)
    found = torch.autograd.grad(loss, leaves, upstream)
    return {"loss": loss.detach(), **{str(i): grad for i, grad in enumerate(found)}}


def learned(value: float = 9.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_determinants(count: int, engine: dict[str, Any]) -> None:
    sets, scale = drawn(count), learned()
    got = evaluated(gram_loss(*sets, logit_scale=scale, **engine), [*sets, scale])
    assert_results_close(got, evaluated(formula(sets, scale), [*sets, scale]), rtol=1e-8)


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "none"},
        {"reduction": "sum", "normalize": True},
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.3, "reduction": "none", "normalize": True},
        {"weights": torch.rand(ROWS, generator=generator(9), dtype=torch.float64)},
    ],
    ids=str,
)
def test_options(options: dict[str, Any], backend: str) -> None:
    lengths = torch.rand(ROWS, 1, generator=generator(8), dtype=torch.float64) + 0.5
    sets, scale = [(x.detach() * lengths).requires_grad_() for x in drawn(2)], learned()
    got = evaluated(gram_loss(*sets, logit_scale=scale, backend=backend, **options), [*sets, scale])
    assert_results_close(got, evaluated(formula(sets, scale, **options), [*sets, scale]), rtol=1e-8)


def test_a_temperature_divides() -> None:
    sets, temperature = drawn(2), learned(0.1)
    scaled = gram_loss(*sets, logit_scale=1 / temperature)
    torch.testing.assert_close(gram_loss(*sets, temperature=temperature), scaled)
    torch.testing.assert_close(gram_loss(*sets, temperature=0.1), scaled)
    torch.testing.assert_close(gram_loss(*sets, temperature=0.1, logit_bias=3.0), scaled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_parallel_modalities(backend: str, dtype: torch.dtype) -> None:
    """Items in one plane: volumes are 0, and their gradients are 0 and no NaN."""
    if backend == "triton" and dtype == torch.bfloat16:
        dtype = torch.float16
    anchor, x, y = (own.detach() for own in drawn(2, 9))
    y = torch.where((torch.arange(9) < 4)[:, None], 2.0 * x, y)
    x[7] = 0.0
    anchor[8] = (x + y)[8]
    sets = [own.to(dtype).requires_grad_() for own in (anchor, x, y)]
    loss = gram_loss(*sets, logit_scale=3.0, reduction="none", backend=backend)
    loss.sum().backward()
    assert bool(loss.isfinite().all())
    for own in sets:
        assert own.grad is not None and bool(own.grad.isfinite().all())
        assert own.grad.abs().max() < 100
    if dtype == torch.float64:
        first, second = (own.grad for own in sets[1:])
        assert first is not None and second is not None
        assert bool((first[:4] == 0).all()) and bool((second[:4] == 0).all())


def test_all_are_the_same() -> None:
    """As in the first steps of a collapsed model: no volume anywhere."""
    x = torch.randn(1, 6, requires_grad=True)
    sets = [x.expand(5, 6)] * 3
    loss = gram_loss(*sets, temperature=0.07)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(5.0).log(), rtol=1e-2, atol=1e-2)
    assert x.grad is not None and bool(x.grad.isfinite().all())


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("noise", [1.0, 0.1])
def test_error(noise: float, scale: float, backend: str) -> None:
    """Of fp32: no further off than the determinants in fp32 are."""
    ours, theirs, exact = [], [], []
    for seed in range(12):
        rng = generator(seed)
        shared = torch.randn(61, 40, generator=rng)
        near = [shared + noise * torch.randn(61, 40, generator=rng) for _ in range(4)]
        sets = [F.normalize(own, dim=1).requires_grad_() for own in near]
        wide = [own.detach().double().requires_grad_() for own in sets]
        exact.append(evaluated(formula(wide, scale), wide))
        theirs.append(evaluated(formula(sets, scale), sets))
        ours.append(evaluated(gram_loss(*sets, logit_scale=scale, backend=backend), sets))
    for name in exact[0]:
        columns = ([found[name] for found in results] for results in (ours, theirs, exact))
        for verdict in judge(name, *columns):
            assert verdict.holds, str(verdict)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows(rows: int, backend: str) -> None:
    sets, scale = drawn(2, rows), learned()
    loss = gram_loss(*sets, logit_scale=scale, backend=backend)
    found = torch.autograd.grad(loss, [*sets, scale])
    if rows < 2:
        assert loss == 0 and all(bool((grad == 0).all()) for grad in found)
    else:
        torch.testing.assert_close(loss, formula(sets, scale))


def test_stats() -> None:
    sets = drawn(3)
    rows, stats = gram_loss(*sets, logit_scale=9.0, reduction="none", return_stats=True)
    sides = stats, stats.columns
    both = sum(side.lse - side.positive for side in sides) / 2
    torch.testing.assert_close(rows.detach(), both)
    detached = [own.detach() for own in sets]
    for side, target in zip(sides, (0, 1), strict=True):
        volumes = torch.stack(
            [
                _volume([detached[0][i], *(own[j] for own in detached[1:])])
                for i in range(ROWS)
                for j in range(ROWS)
            ]
        ).view(ROWS, ROWS)
        own = volumes.diagonal().unsqueeze(1 - target)
        assert torch.equal(side.rank, (volumes < own - 1e-12).sum(1 - target))
        torch.testing.assert_close(side.accuracy, (side.rank == 0).float().mean())


def _volume(vectors: Sequence[Tensor]) -> Tensor:
    stacked = torch.stack(tuple(vectors))
    return torch.linalg.det(stacked @ stacked.T).clamp(min=0).sqrt()


def test_module_and_matryoshka() -> None:
    sets = drawn(2)
    module = GramLoss(temperature=0.1, label_smoothing=0.1)
    torch.testing.assert_close(
        module(*sets), gram_loss(*sets, temperature=0.1, label_smoothing=0.1)
    )
    expected = sum(gram_loss(*(x[:, :m] for x in sets), temperature=0.1, normalize=True)
                   for m in (4, 7))  # fmt: skip
    torch.testing.assert_close(matryoshka(gram_loss, *sets, dims=(4, 7), temperature=0.1), expected)
    whole = Matryoshka(GramLoss(temperature=0.1), dims=(4, 7))
    torch.testing.assert_close(whole(*sets), expected)


def test_one_graph() -> None:
    torch._dynamo.reset()
    sets, scale = drawn(3, 12), learned()
    options: dict[str, Any] = {"logit_scale": scale, "label_smoothing": 0.1, "normalize": True}
    compiled = torch.compile(gram_loss, fullgraph=True, backend="aot_eager")
    got, expected = (evaluated(f(*sets, **options), [*sets, scale]) for f in (compiled, gram_loss))
    assert_results_close(got, expected)


def test_autocast() -> None:
    """Products are as exact as the embeddings."""
    sets = [own.detach().float() for own in drawn(2)]
    expected = gram_loss(*sets, temperature=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gram_loss(*sets, temperature=0.1), expected)


def test_memory() -> None:
    n, size, workspace = 1500, 8, 2**19
    sets = [own.detach().float().requires_grad_() for own in drawn(3, n, size)]
    with AllocationSpy() as spy:
        gram_loss(*sets, temperature=0.1, label_smoothing=0.1, workspace=workspace).backward()
    embeddings = sum(own.numel() * 4 for own in sets)
    assert spy.peak_bytes - workspace < 14 * embeddings + n * 600
    assert spy.peak_bytes < n * n * 4 / 2


@pytest.mark.parametrize(
    ("sets", "options", "message"),
    [
        (drawn(0), {}, "takes one to 7 modalities, got 0"),
        (drawn(8), {}, "takes one to 7 modalities, got 8"),
        (
            [*drawn(1), torch.ones(4, SIZE)],
            {},
            r"row i of anchor belongs to row i of modalities\[1\]",
        ),
        (drawn(2), {"logit_scale": torch.ones(ROWS)}, "the scale must be one number"),
        (drawn(2), {"offload": "cpu"}, "leave offload out"),
        (drawn(2), {"label_smoothing": 1.5}, "label_smoothing"),
        (drawn(2, 1), {"empty": "error"}, "1 of 1 rows have no positive or no negative"),
    ],
    ids=["none", "eight", "rows", "scale", "offload", "smoothing", "empty"],
)
def test_errors(sets: list[Tensor], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        gram_loss(*sets, **{"logit_scale": 3.0, **options})
    assert str(raised.value).startswith("gram_loss: ")


def test_modalities_have_no_name() -> None:
    (anchor, *others) = drawn(2)
    with pytest.raises(TypeError, match="gram_loss: no option 'modalities'"):
        gram_loss(anchor, modalities=others, temperature=0.1)


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(2)
    yield pool
    pool.stop()


def over_ranks(sizes: Sequence[int], convention: str, options: dict[str, Any]) -> None:
    """A rank's value and gradients against one process that has all rows."""
    rank, total = dist.get_rank(), sum(sizes)
    whole, scale = drawn(2, total), learned()
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    own = [x.detach()[rows].clone().requires_grad_() for x in whole]
    shared = learned()
    given = {"group": dist.group.WORLD, "grad_scale": convention, **options}
    found = gram_loss(*own, logit_scale=shared, **given)
    truth = formula(whole, scale, **options)
    if options.get("reduction") == "none":
        truth_rows, truth = truth[rows].detach(), truth.sum()
        torch.testing.assert_close(found.detach(), truth_rows)
        found = found.sum()
    else:
        torch.testing.assert_close(found.detach(), truth.detach())
    expected = torch.autograd.grad(truth, [*whole, scale])
    got = [grad.clone() for grad in torch.autograd.grad(found, [*own, shared])]
    if convention != "none":
        dist.all_reduce(got[-1])
    if convention == "ddp" and options.get("reduction") != "none":
        got = [grad / dist.get_world_size() for grad in got]
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other[rows] if other.dim() else other)


@pytest.mark.parametrize("convention", ["ddp", "sum", "none"])
@pytest.mark.parametrize("sizes", [(4, 4), (2, 7), (5, 0)], ids=str)
def test_ranks(sizes: tuple[int, int], convention: str, processes: Processes) -> None:
    options: list[dict[str, Any]] = [{}, {"label_smoothing": 0.1, "normalize": True}]
    for own in [*options, {"reduction": "none"}]:
        processes.run(over_ranks, sizes, convention, own)
