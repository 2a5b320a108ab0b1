"""The pass in plain torch: exponents that outgrow its powers, what it does, holds and says."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import contrastile.native
import pytest
import torch
from contrastile import ContrastileWarning, clip_loss, info_nce
from contrastile.backends import pieces
from contrastile.backends.cpu import CpuBackend
from contrastile.backends.cpu import backend as cpu
from contrastile.engine.plan import Tile
from contrastile.ops import log_sum_exp
from contrastile.problem import Channel, Index
from contrastile.problem.advice import GIVEN
from contrastile.testing import AllocationSpy
from helpers import assert_results_close, evaluate, generator, unit_rows
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.usefixtures("poisoned_empty", "without_extension")

TILE = Tile(4, 5)
# Sizes of rows: scores are ordinary in the first tiles and beyond all powers of fp64 in later ones.
LATE = [1.0] * 6 + [300.0] * 6


@pytest.fixture
def without_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastile.native, "load", lambda: None)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuBackend, "tile", lambda *_: TILE)
    monkeypatch.setattr(pieces, "PIECE", 2 * TILE.cols)


def sized_rows(sizes: list[float], seed: int, sign: float = 1.0) -> Tensor:
    """Rows of these sizes that all point into one half of space, so that no score is small."""
    rows = unit_rows(len(sizes), 8, generator(seed)).abs() * sign
    return (rows * torch.tensor(sizes).double()[:, None]).requires_grad_()


def dense(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The sum of all log-sum-exps without the pairs (i, i)."""
    scores = scale * x @ y.T
    scores = scores.masked_fill(torch.eye(*scores.shape, dtype=torch.bool), float("-inf"))
    return scores.logsumexp(1).sum() + scores.logsumexp(0).sum()


def ours(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    channels = [Channel(~Index.diagonal(len(x)))]
    stats = log_sum_exp(x, y, scale=scale, channels=channels, columns=True)
    return stats.rows[0].sum() + stats.columns[0].sum()


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["large", "vanishing"])
@pytest.mark.parametrize("order", [LATE, LATE[::-1]], ids=["late", "early"])
def test_exponents_that_outgrow_the_powers(order: list[float], sign: float) -> None:
    """Sums of powers as they are become those of a row's own shift, wherever the first one is."""
    arguments = {"x": sized_rows(order, 1), "y": sized_rows(order, 2, sign)}
    arguments["scale"] = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert bool(((arguments["x"] @ arguments["y"].T).abs() > 1e4).any())
    assert_results_close(evaluate(ours, arguments), evaluate(dense, arguments))


@pytest.mark.usefixtures("small_tiles")
def test_exponents_that_outgrow_the_powers_between_strips() -> None:
    """One direction: the gradients of the first strip are made before the last is seen."""
    n, m = 12, 40
    queries = sized_rows(LATE, 1)
    keys = sized_rows([1.0] * m, 2)

    def own(query: Tensor, key: Tensor) -> Tensor:
        return info_nce(query, key, logit_scale=9.0, workspace=8 * (m + TILE.cols) * 5)

    def plain(query: Tensor, key: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(9.0 * query @ key.T, torch.arange(n))

    arguments = {"query": queries, "key": keys}
    assert_results_close(evaluate(own, arguments), evaluate(plain, arguments))


def test_shifts_keep_what_was_summed_and_leave_the_rest_open() -> None:
    """A row whose pairs all came later than the change must not start from a shift of 0."""
    x = torch.tensor([[1.0], [1.0]]).double()
    y = torch.tensor([[1.0], [-3000.0], [-2999.0]]).double()
    channels = [Channel(~Index(torch.tensor([0, -1])))]
    own = {"channels": channels, "backend": "cpu", "workspace": 8 * 2}
    (lse,) = log_sum_exp(x, y, **own).rows
    expected = torch.logaddexp(torch.tensor(-3000.0), torch.tensor(-2999.0)).double()
    torch.testing.assert_close(lse, torch.stack([expected, torch.tensor(1.0).double()]))


class Passes(TorchDispatchMode):
    """Counts the operations that write at least so many numbers."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        views = {"view", "t", "transpose", "detach", "slice", "expand", "alias", "unsqueeze"}
        name = func.overloadpacket.__name__
        written = isinstance(out, Tensor) and out.numel() >= self.numbers
        if written and name not in {*views, "empty"}:
            self.seen.append(name)
        return out


def test_a_step_takes_few_passes_over_the_scores() -> None:
    """No clock: each pass over the block costs time, and a mask many times as much."""
    n = 64
    x, y = (unit_rows(n, 8, generator(s)).float().requires_grad_() for s in (1, 2))
    scale = torch.tensor(14.3, requires_grad=True)
    with Passes(n * n) as passes:
        clip_loss(x, y, logit_scale=scale).backward()
    assert len(passes.seen) <= 13, passes.seen
    assert not {"where", "masked_fill_", "eq"} & set(passes.seen)


def test_a_second_backward_pass_forms_the_powers_again() -> None:
    x, y = (unit_rows(20, 8, generator(s)).float().requires_grad_() for s in (1, 2))
    loss = clip_loss(x, y, logit_scale=14.3)
    first = torch.autograd.grad(loss, (x, y), retain_graph=True)
    second = torch.autograd.grad(loss, (x, y))
    assert all(map(torch.equal, first, second))


def test_it_holds_a_few_pieces_beside_the_workspace() -> None:
    rows, size, workspace = 900, 16, 2**20
    x, y = (unit_rows(rows, size, generator(s)).float().requires_grad_() for s in (1, 2))
    with AllocationSpy() as spy:
        clip_loss(x, y, logit_scale=14.3, workspace=workspace).backward()
    vectors, gradients = 2 * rows * 200, 2 * 4 * 2 * rows * size
    assert spy.peak_bytes <= workspace + gradients + vectors + 2 * 8 * pieces.PIECE


def told(rows: int, calls: int = 2) -> list[str]:
    """The advice that losses of so many rows give."""
    x, y = (unit_rows(rows, 8, generator(s)).float() for s in (1, 2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(calls):
            clip_loss(x, y, logit_scale=14.3)
            info_nce(x, y, logit_scale=14.3)
    return [str(w.message) for w in caught if w.category is ContrastileWarning]


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cpu, "WORTH_BUILDING", 64 * 64)
    GIVEN.clear()
    yield
    GIVEN.clear()


@pytest.mark.usefixtures("new_process")
def test_a_missing_extension_is_said_once_a_process() -> None:
    (text,) = told(64)
    for remedy in ("C++17 compiler", "contrastile doctor", "filterwarnings"):
        assert remedy in text
    assert told(64) == []


@pytest.mark.usefixtures("new_process")
def test_small_problems_are_no_reason_to_build() -> None:
    assert told(63) == []
