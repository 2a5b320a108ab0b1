"""A loss of a single block, each pass in one compiled call: the numbers of the general passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import contrastile.functional as losses
import pytest
import torch
from cases import arguments_for, covering_choices, default_choice
from contrastile.backends.cpu import CpuBackend
from contrastile.engine.forward import plans_of
from contrastile.ops import log_sum_exp, pair_sum
from contrastile.problem import Channel, Equal, Index, Not, Phi, Term
from contrastile.problem.row_loss import RowLoss
from contrastile.problem.spec import Sizes, Spec
from helpers import cast, evaluate, generator
from torch import Tensor

pytest.importorskip("contrastile._C", reason="the native extension is not built")
pytestmark = pytest.mark.usefixtures("poisoned_empty")

N, D = 37, 16
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
LOSSES = ("clip_loss", "info_nce", "nt_xent", "dcl_loss", "dclw_loss", "siglip_loss")
OF_SEVERAL = ("supcon_loss", "multi_positive_nce")
Results = dict[str, Tensor]
Step = Callable[[], Results]

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Step], bool]]:
    """Compares a step with and without; tells whether it had such a call at all."""
    own = CpuBackend.block_loss
    answers: list[Any] = []

    def recorded(self: CpuBackend, spec: Spec, sizes: Sizes) -> Any:
        answers.append(own(self, spec, sizes))
        return answers[-1]

    def compare(step: Step) -> bool:
        found = []
        for answer in (recorded, lambda *_: None):
            monkeypatch.setattr(CpuBackend, "block_loss", answer)
            plans_of.cache_clear()
            found.append(step())
        assert_same(*found)
        return bool(answers) and answers[-1] is not None

    yield compare
    plans_of.cache_clear()


def assert_same(got: Results, wanted: Results) -> None:
    """To the last bit; the gradient of an fp64 scale sums the same numbers in another order."""
    assert got.keys() == wanted.keys()
    for name, value in got.items():
        total = name in ("scale", "logit_scale", "temperature") and value.dtype == torch.float64
        rtol = 1e-11 if total else 0.0
        torch.testing.assert_close(value, wanted[name], rtol=rtol, atol=0.0, equal_nan=True)


@each_dtype
@pytest.mark.parametrize("loss", [*LOSSES, *OF_SEVERAL])
def test_losses(loss: str, dtype: torch.dtype, paths: Callable[[Step], bool]) -> None:
    """With all options, one at a time and together; a drawn gradient of the loss."""
    function = getattr(losses, loss)
    taken = 0
    for choice in covering_choices(loss, strength=2, draws=40):
        arguments = cast(arguments_for(loss, choice), dtype)
        if dtype != torch.float64:
            arguments = cast(arguments, torch.float32, "logit_scale", "temperature", "weights")
        taken += paths(lambda own=arguments: evaluate(function, own, backend="cpu"))
    assert taken > 3


def drawn(dtype: torch.dtype, *shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def results(
    primitive: Callable[..., Any], tensors: dict[str, Tensor], grad: float | None, **given: Any
) -> Results:
    """The loss and the gradients of tensors; ``grad``: of the loss, None for one of each row."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    loss = primitive(**leaves, **given, backend="cpu").loss
    upstream = drawn(loss.dtype, N, seed=9) if grad is None else loss.new_tensor(grad)
    found = torch.autograd.grad(loss, list(leaves.values()), upstream.expand_as(loss))
    return {"loss": loss.detach(), **dict(zip(leaves, found, strict=True))}


def embeddings(dtype: torch.dtype, **more: Tensor) -> dict[str, Tensor]:
    return {
        "query": drawn(dtype, N, D, seed=0),
        "key": drawn(dtype, N, D, seed=1),
        **more,
    }


@pytest.mark.parametrize("grad", [1.0, 0.3, None])
@pytest.mark.parametrize("scales", ["one", "of rows"])
@pytest.mark.parametrize("columns", [False, True])
@each_dtype
def test_log_sum_exps_with_all_that_scores_may_have(
    dtype: torch.dtype,
    columns: bool,
    scales: str,
    grad: float | None,
    paths: Callable[[Step], bool],
) -> None:
    """Biases, class weights, offsets, weights of rows, rows without a positive or a negative."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    of_rows = drawn(wide, N, seed=2).abs()
    tensors = embeddings(
        dtype,
        scale=of_rows if scales == "of rows" else of_rows[0],
        row_bias=drawn(wide, N, seed=3),
        col_bias=drawn(wide, N, seed=4),
    )
    places = torch.arange(N).roll(3)
    places[::5] = -1
    labels = torch.arange(N) % 4
    labels[:2] = 9
    same = Equal(labels, labels)
    channel = Channel(
        ~Index(places) & Equal(labels, labels),
        class_log_weights=((same, 0.7), (Not(same), -0.2)),
        row_log_weight=drawn(wide, N, seed=5),
        col_log_weight=drawn(wide, N, seed=6),
    )
    loss = RowLoss(
        "softmax",
        reduction="none" if grad is None else "mean",
        share=0.5,
        weights=drawn(wide, N, seed=7),
        skip=True,
        some_without=True,
    )
    given = {"channels": [channel], "columns": columns, "positives": places, "row_loss": loss}
    assert paths(lambda: results(log_sum_exp, tensors, grad, **given))


@pytest.mark.parametrize("gaps", ["both", "none", "columns"])
def test_gaps_of_both_sides_or_none(gaps: str, paths: Callable[[Step], bool]) -> None:
    """Of one side alone the call knows nothing."""
    labels = torch.arange(N) % 4
    same = Equal(labels, labels)
    count = (labels[:, None] == labels).sum(1)
    loss = RowLoss("several", row_count=count, col_count=count)
    given: dict[str, Any] = {"channels": [Channel(Not(same)), Channel(same)], "columns": True}
    given["row_counts"] = count if gaps == "both" else None
    given["col_counts"] = None if gaps == "none" else count
    tensors = embeddings(torch.float64, scale=drawn(torch.float64, N, seed=2).abs())

    def step() -> Results:
        return results(log_sum_exp, tensors, 0.3, **given, row_loss=loss)

    assert paths(step) == (gaps != "columns")


@pytest.mark.parametrize("grad", [1.0, None])
@each_dtype
def test_sums_of_two_functions(
    dtype: torch.dtype, grad: float | None, paths: Callable[[Step], bool]
) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    places = torch.arange(N).roll(3)
    terms = [Term(Phi.SOFTPLUS, ~Index(places)), Term(Phi.SQUARE, Index(places), factor=-0.5)]
    loss = RowLoss("sigmoid", reduction="none" if grad is None else "sum")
    tensors = embeddings(
        dtype, scale=torch.tensor(1.5, dtype=wide), row_bias=drawn(wide, N, seed=3)
    )
    given = {"terms": terms, "positives": places, "row_loss": loss}
    assert paths(lambda: results(pair_sum, tensors, grad, **given))


@pytest.mark.parametrize("value", [1e4, -30.0, 1e38, math.inf, math.nan])
@pytest.mark.parametrize("loss", ["clip_loss", "nt_xent", "siglip_loss"])
def test_scales_beyond_reach(loss: str, value: float, paths: Callable[[Step], bool]) -> None:
    """With shifts that run, and scores that are no numbers."""
    choice = default_choice(loss, shape=(N, D), scale="logit_scale tensor")
    arguments = cast(arguments_for(loss, choice), torch.float32)
    own = torch.tensor(value, requires_grad=True)
    arguments["logit_scale"] = own
    assert paths(lambda: evaluate(getattr(losses, loss), arguments, backend="cpu"))


@pytest.mark.parametrize("loss", ["clip_loss", "nt_xent", "dcl_loss"])
def test_dot_products_that_are_not_kept(loss: str, paths: Callable[[Step], bool]) -> None:
    choice = default_choice(loss, shape=(N, D), scale="logit_scale tensor")
    arguments = cast(arguments_for(loss, choice), torch.float32)
    rows = 2 * N if loss != "clip_loss" else N
    room = {"workspace": 4 * rows * rows}
    assert paths(lambda: evaluate(getattr(losses, loss), arguments, backend="cpu", **room))


def test_weights_of_another_dtype_go_the_general_way(paths: Callable[[Step], bool]) -> None:
    loss = RowLoss("softmax", weights=drawn(torch.float64, N, seed=7))
    given = {"positives": torch.arange(N), "row_loss": loss, "scale": 2.0}
    found: list[Results] = []

    def step() -> Results:
        found.append(results(log_sum_exp, embeddings(torch.float32), 1.0, **given))
        return found[-1]

    assert paths(step)
    assert found[0]["loss"].dtype == torch.float32


def test_two_backward_passes_and_none() -> None:
    x, y = (drawn(torch.float32, N, D, seed=seed).requires_grad_() for seed in (0, 1))
    loss = losses.clip_loss(x, y, temperature=0.5, backend="cpu")
    first = torch.autograd.grad(loss, (x, y), retain_graph=True)
    second = torch.autograd.grad(loss, (x, y))
    assert all(map(torch.equal, first, second))
    with torch.no_grad():
        assert torch.equal(losses.clip_loss(x, y, temperature=0.5, backend="cpu"), loss)
