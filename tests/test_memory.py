"""The memory law: no N x M tensor, ever; S takes the workspace, all else is O((N + M) D)."""

from __future__ import annotations

from typing import Any

import contrastile.functional as losses
import contrastile.native
import pytest
import torch
from cases import LOSSES, TWO_VIEWS, Choice, arguments_for, default_choice
from contrastile.testing import AllocationSpy
from helpers import Arguments, cast, floats
from layouts import embedding_names
from torch import Tensor

SIZE = 16
WORKSPACE = 2**15
# Bytes of O(N) vectors (ids, masks, sums, coefficients ...) that a row or column may take.
VECTORS = 150

RICH: Choice = {
    "bias": "tensor",
    "weights": True,
    "ids": "few",
    "margin": 0.1,
    "label_smoothing": 0.1,
}


def arguments_of(loss: str, rows: int, size: int = SIZE, **changes: Any) -> Arguments:
    changes = {"shape": (rows, size), "scale": "logit_scale tensor", **changes}
    arguments = cast(arguments_for(loss, default_choice(loss, **changes)), torch.float32)
    return {**arguments, **cast(arguments, torch.float32, "logit_scale")}


def rich(loss: str) -> Choice:
    return {name: value for name, value in RICH.items() if name in LOSSES[loss]}


def rows_and_columns(loss: str, arguments: Arguments) -> tuple[int, int]:
    first, *rest = (len(arguments[name]) for name in embedding_names(arguments))
    if loss in TWO_VIEWS:
        return 2 * first, 2 * first
    return first, (rest or [first])[0]


def train(loss: str, arguments: Arguments, **options: Any) -> AllocationSpy:
    """What forward and backward allocate."""
    for leaf in floats(arguments).values():
        leaf.grad = None
    with AllocationSpy() as spy:
        result = getattr(losses, loss)(**arguments, **options)
        (result[0] if options.get("return_stats") else result).sum().backward()
        spy.live_with_loss = spy.live_bytes
    return spy


def copy_of_embeddings(loss: str, arguments: Arguments, dtype: torch.dtype) -> int:
    """Bytes of all embeddings at that dtype."""
    width = arguments[embedding_names(arguments)[0]].shape[1]
    return sum(rows_and_columns(loss, arguments)) * width * dtype.itemsize


@pytest.mark.parametrize("options", ["plain", "rich", "stats", "torch pass"])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_tensor_of_rows_by_columns(
    loss: str, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest allocation at N and at 2N, where S is 10 and 40 times the workspace or more."""
    if options == "torch pass":
        monkeypatch.setattr(contrastile.native, "load", lambda: None)
    for rows in (400, 800):
        changes = rich(loss) if options == "rich" else {}
        arguments = arguments_of(loss, rows, **changes)
        stats = {"return_stats": True} if options == "stats" else {}
        spy = train(loss, arguments, workspace=WORKSPACE, **stats)
        n, m = rows_and_columns(loss, arguments)
        bound = WORKSPACE + copy_of_embeddings(loss, arguments, torch.float32)
        assert bound < n * m, "the bound would allow a byte for every score"
        assert spy.largest_bytes <= bound, f"{spy.largest_bytes} bytes at once for {rows} rows"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_no_tensor_of_rows_by_columns_at_other_dtypes(loss: str, dtype: torch.dtype) -> None:
    arguments = arguments_of(loss, 800)
    arguments = cast(arguments, dtype, *embedding_names(arguments))
    spy = train(loss, arguments, workspace=WORKSPACE)
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    assert spy.largest_bytes <= WORKSPACE + copy_of_embeddings(loss, arguments, computed)


@pytest.mark.parametrize("loss", LOSSES)
def test_peak_is_the_workspace_and_gradients(loss: str) -> None:
    """Gradients are one copy of the embeddings; another may be live while they are made."""
    copies = 3 if loss == "multi_positive_nce" else 2  # it also sums the rows of each id
    for rows in (400, 800):
        arguments = arguments_of(loss, rows, size=64)
        spy = train(loss, arguments, workspace=WORKSPACE)
        vectors = sum(rows_and_columns(loss, arguments)) * VECTORS
        gradients = copy_of_embeddings(loss, arguments, torch.float32)
        bound = WORKSPACE + copies * gradients + vectors
        assert spy.peak_bytes <= bound, f"{spy.peak_bytes} bytes at peak for {rows} rows"


def test_peak_of_clip_loss_is_as_published() -> None:
    """Workspace + 8 (N + M) D bytes + O(N) in fp32, at the default workspace too."""
    size = 64
    for rows, workspace in ((400, WORKSPACE), (800, WORKSPACE), (2500, None), (4500, None)):
        arguments = arguments_of("clip_loss", rows, size)
        spy = train("clip_loss", arguments, workspace=workspace)
        bound = (workspace or 64 * 2**20) + 2 * rows * (8 * size + VECTORS)
        assert spy.peak_bytes <= bound, (rows, workspace)


@pytest.mark.parametrize("loss", LOSSES)
def test_forward_alone_keeps_nothing(loss: str) -> None:
    arguments = arguments_of(loss, 800)
    with torch.no_grad(), AllocationSpy() as spy:
        value = getattr(losses, loss)(**arguments, workspace=WORKSPACE)
        assert spy.live_bytes <= value.nbytes + 64
    vectors = sum(rows_and_columns(loss, arguments)) * VECTORS
    embeddings = copy_of_embeddings(loss, arguments, torch.float32)
    assert spy.peak_bytes <= WORKSPACE + 3 * embeddings + vectors


@pytest.mark.parametrize("loss", LOSSES)
def test_after_backward_only_gradients_are_left(loss: str) -> None:
    """A loss that is still held, in a list of losses say, holds no scores."""
    arguments = arguments_of(loss, 500)
    gradients = sum(leaf.nbytes for leaf in floats(arguments).values())
    spy = train(loss, arguments)
    n, m = rows_and_columns(loss, arguments)
    assert spy.live_with_loss <= gradients + (n + m) * VECTORS
    assert spy.live_with_loss < 4 * n * m


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("native", [True, False], ids=["compiled pass", "torch pass"])
@pytest.mark.parametrize("workspace", [None, 4096])
@pytest.mark.parametrize("loss", LOSSES)
def test_uninitialised_memory_never_leaks_into_results(
    loss: str, workspace: int | None, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(contrastile.native, "load", lambda: None)
    arguments = arguments_of(loss, 70, **rich(loss))
    leaves = list(floats(arguments).values())

    def results() -> list[Tensor]:
        train(loss, arguments, workspace=workspace)
        value, stats = getattr(losses, loss)(**arguments, workspace=workspace, return_stats=True)
        seen = [value, stats.lse, stats.positive, stats.rank, stats.accuracy]
        return [t.detach().clone() for t in (*seen, *(x.grad for x in leaves)) if t is not None]

    poisoned = results()
    torch.utils.deterministic.fill_uninitialized_memory = False
    for one, other in zip(poisoned, results(), strict=True):
        assert torch.equal(one, other)
        assert other.isfinite().all()
