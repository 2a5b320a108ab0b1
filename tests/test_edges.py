"""Where losses usually break: nothing to sum, numbers at the end of their range, odd memory."""

from __future__ import annotations

from typing import Any

import contrastile.functional as losses
import oracles
import pytest
import torch
from cases import EVERY as LOSSES
from cases import arguments_for, covering_choices, default_choice, ids_taken
from contrastile.losses.registry import LOSSES as REGISTRY
from helpers import (
    Arguments,
    assert_results_close,
    cast,
    evaluate,
    truth,
)
from layouts import LAYOUTS, embedding_names, laid_out
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

# With these ids no row has a positive and a negative. A row of siglip_loss is never empty.
ALL_ROWS_EMPTY = {
    name: {"ids": "all different" if entry.labels else "all equal"}
    for name, entry in REGISTRY.items()
    if ids_taken(entry) and name not in ("multi_positive_nce", "siglip_loss")
}
NON_FINITE = [float("nan"), float("inf"), float("-inf")]


def arguments_of(loss: str, rows: int = 9, size: int = 5, **changes: Any) -> Arguments:
    changes = {"shape": (rows, size), "scale": "logit_scale tensor", **changes}
    return arguments_for(loss, default_choice(loss, **changes))


def compare(loss: str, arguments: Arguments, backend: str) -> None:
    got = evaluate(getattr(losses, loss), arguments, backend=backend)
    assert_results_close(got, evaluate(getattr(oracles, loss), arguments))


def run(loss: str, arguments: Arguments, backend: str, **options: Any) -> Tensor:
    return getattr(losses, loss)(**arguments, backend=backend, **options)


# Empty batches and empty rows.


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_rows_at_all(loss: str, reduction: str, backend: str) -> None:
    arguments = arguments_of(loss, reduction=reduction)
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.ndim:
            arguments[name] = value.detach()[:0].requires_grad_(value.requires_grad)
    got = evaluate(getattr(losses, loss), arguments, backend=backend)
    assert got["loss"].numel() == (reduction != "none")
    for name, value in got.items():
        assert torch.equal(value, torch.zeros_like(value)), name


def test_no_rows_but_negatives(backend: str) -> None:
    """Torch may say that an empty gradient starts behind the end of its memory."""
    query, key = (torch.zeros(rows, 5, requires_grad=True) for rows in (0, 4))
    losses.info_nce(
        query, key, negatives=torch.ones(3, 5), temperature=0.1, backend=backend
    ).backward()
    assert key.grad is not None and not key.grad.any()


@pytest.mark.parametrize("empty", ["zero", "skip"])
@pytest.mark.parametrize("loss", ALL_ROWS_EMPTY)
def test_all_rows_empty_is_exactly_nothing(loss: str, empty: str, backend: str) -> None:
    arguments = arguments_of(loss, empty=empty, weights=True, **ALL_ROWS_EMPTY[loss])
    for name, value in evaluate(getattr(losses, loss), arguments, backend=backend).items():
        assert torch.equal(value, torch.zeros_like(value)), name


@pytest.mark.parametrize("loss", ALL_ROWS_EMPTY)
def test_empty_rows_are_an_error_when_asked(loss: str, backend: str) -> None:
    arguments = arguments_of(loss, empty="error", **ALL_ROWS_EMPTY[loss])
    with pytest.raises(ValueError, match=f"{loss}.*"):
        run(loss, arguments, backend)
    if loss == "supcon_loss":
        arguments["labels"] = torch.zeros(9, dtype=torch.long)
    else:
        for name in ("ids", "query_ids", "key_ids"):
            arguments.pop(name, None)
    compare(loss, arguments, backend)


def test_one_id_missing_is_an_error_when_asked(backend: str) -> None:
    arguments = arguments_of("multi_positive_nce", ids="all equal", empty="error")
    compare("multi_positive_nce", arguments, backend)
    arguments["query_ids"][4] = -5
    with pytest.raises(ValueError, match="multi_positive_nce"):
        run("multi_positive_nce", arguments, backend)


def test_rows_without_positive(backend: str) -> None:
    for empty in ("zero", "skip"):
        arguments = arguments_of("info_nce", empty=empty, weights=True)
        arguments["positives"] = torch.tensor([-1, 4, -1, -1, 0, 0, 11, -1, 3])
        compare("info_nce", arguments, backend)
        arguments["positives"] = torch.full((9,), -1)
        compare("info_nce", arguments, backend)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_single_row(loss: str, backend: str) -> None:
    for size in (1, 7):
        compare(loss, arguments_of(loss, rows=1, size=size), backend)


def test_kept_out_key_leaves_no_trace(backend: str) -> None:
    """Not its score, however large, and no gradient."""
    arguments = arguments_of("info_nce", rows=8)
    arguments["query_ids"] = torch.arange(8)
    arguments["key_ids"] = torch.arange(11)
    arguments["query_ids"][5], arguments["key_ids"][10] = 77, 77
    key = arguments["key"].detach().clone()
    key[10] *= 1e4
    arguments |= {"key": key.requires_grad_(), "reduction": "none"}
    got = evaluate(losses.info_nce, arguments, backend=backend)
    without = {**arguments, "key": key.detach()[:10].requires_grad_()}
    without["key_ids"] = arguments["key_ids"][:10]
    expected = evaluate(oracles.info_nce, without)
    torch.testing.assert_close(got["loss"][5], expected["loss"][5], rtol=1e-12, atol=0)
    torch.testing.assert_close(got["query"][5], expected["query"][5], rtol=1e-10, atol=1e-12)
    arguments["query_ids"], arguments["key_ids"] = torch.full((8,), 7), torch.full((11,), 7)
    nothing = evaluate(losses.info_nce, arguments, backend=backend)
    assert torch.equal(nothing["key"], torch.zeros_like(nothing["key"]))


# Numbers at the end of their range.


@pytest.mark.parametrize("bad", NON_FINITE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_non_finite_input_makes_the_loss_nan(
    loss: str, dtype: torch.dtype, bad: float, backend: str
) -> None:
    changes = {"negatives": 5} if loss == "info_nce" else {}
    arguments = cast(arguments_of(loss, **changes), dtype)
    for name in embedding_names(arguments):
        poisoned = arguments[name].detach().clone()
        poisoned[2, 3] = bad
        for normalize in (False, True):
            given = {**arguments, name: poisoned.requires_grad_(), "normalize": normalize}
            assert run(loss, given, backend).isnan(), (name, normalize)


def test_nan_stays_in_its_row(backend: str) -> None:
    arguments = arguments_of("info_nce", reduction="none")
    query = arguments["query"].detach().clone()
    query[2, 3] = float("nan")
    got = run("info_nce", {**arguments, "query": query}, backend)
    expected = oracles.info_nce(**arguments)
    rest = torch.arange(9) != 2
    assert got[2].isnan()
    torch.testing.assert_close(got[rest], expected[rest], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_huge_scale(loss: str, dtype: torch.dtype, backend: str) -> None:
    arguments = cast(arguments_of(loss, rows=33, size=16), dtype)
    arguments["logit_scale"] = torch.tensor(1000.0, dtype=dtype, requires_grad=True)
    got = evaluate(getattr(losses, loss), arguments, backend=backend)
    expected = truth(getattr(oracles, loss), arguments)
    # A score of 1000 is known to 1000 eps, and so is every probability.
    rtol = 1e-10 if dtype == torch.float64 else 4000 * torch.finfo(dtype).eps
    assert_results_close(got, expected, rtol=rtol, atol=1e-30)


@pytest.mark.parametrize("loss", LOSSES)
def test_scale_zero(loss: str, backend: str) -> None:
    """All scores are equal, and the scale still has a gradient."""
    arguments = arguments_of(loss)
    arguments["logit_scale"] = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    compare(loss, arguments, backend)
    if "logit_scale per row" in LOSSES[loss]["scale"]:
        scale = torch.tensor([0.0, 3.0, 0.0, 1.0, 5.0, 0.0, 0.0, 2.0, 0.0], dtype=torch.float64)
        compare(loss, {**arguments, "logit_scale": scale.requires_grad_()}, backend)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_zero_rows_normalize_to_zero(loss: str, dtype: torch.dtype, backend: str) -> None:
    arguments = cast(arguments_of(loss, normalize=True), dtype)
    arguments |= cast(arguments, torch.float64, "logit_scale")
    for name in embedding_names(arguments):
        rows = arguments[name].detach().clone()
        rows[1] = 0
        arguments[name] = rows.requires_grad_()
    got = evaluate(getattr(losses, loss), arguments, backend=backend)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2}[dtype]
    assert_results_close(got, truth(getattr(oracles, loss), arguments), rtol=tolerance)
    for name in embedding_names(arguments):
        assert torch.equal(got[name][1], torch.zeros_like(got[name][1])), name


# Memory.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", LOSSES)
def test_layouts(loss: str, layout: str, backend: str) -> None:
    changes = {"negatives": 5} if loss == "info_nce" else {}
    arguments = arguments_of(loss, **changes)
    names = embedding_names(arguments)
    for chosen in ({name: layout for name in names}, {names[-1]: layout}):
        function, bases = laid_out(getattr(losses, loss), arguments, chosen)
        oracle, _ = laid_out(getattr(oracles, loss), arguments, chosen)
        got = evaluate(function, bases, backend=backend)
        assert_results_close(got, evaluate(oracle, bases))


def test_same_tensor_on_both_sides(backend: str) -> None:
    x = arguments_of("clip_loss")["x"]
    for loss, names in (("clip_loss", "xy"), ("siglip_loss", "xy"), ("nt_xent", ("z0", "z1"))):
        results = []
        for module in (losses, oracles):
            leaf = x.detach().clone().requires_grad_()
            options = {"backend": backend} if module is losses else {}
            given = dict.fromkeys(names, leaf)
            value = getattr(module, loss)(**given, logit_scale=4.0, **options)
            value.backward()
            results.append({"loss": value.detach(), "x": leaf.grad})
        assert_results_close(*results)


def test_weights_and_ids_of_any_kind(backend: str) -> None:
    arguments = arguments_of("clip_loss")
    ids = torch.tensor([0, 1, 2, 0, 4, 5, 1, 7, 8])
    expected = evaluate(
        oracles.clip_loss, {**arguments, "ids": ids, "weights": torch.full((9,), 0.5)}
    )
    for kind in (torch.int64, torch.int32, torch.uint8):
        for weights in (torch.tensor(0.5).expand(9), torch.full((18,), 0.5).double()[::2]):
            strided = torch.stack([ids, ids + 1], 1).to(kind)[:, 0]
            given = {**arguments, "ids": strided, "weights": weights}
            got = evaluate(losses.clip_loss, given, backend=backend)
            assert_results_close(got, expected)


@pytest.mark.parametrize("size", [1e3, 1e5, 1e8, 1e18])
def test_huge_scores_stay_finite(size: float, backend: str) -> None:
    """Half an ulp of such a score is more than the whole range of 2^y."""
    rng = torch.Generator().manual_seed(1)
    x, y = (size * torch.randn(6, 4, generator=rng) for _ in range(2))
    arguments = {"x": x.requires_grad_(), "y": y.requires_grad_()}
    arguments["logit_scale"] = torch.tensor(1.0, requires_grad=True)
    got = evaluate(losses.clip_loss, arguments, backend=backend)
    assert_results_close(got, truth(oracles.clip_loss, arguments), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_exact_until_the_gradients(loss: str, backend: str) -> None:
    """A learned scale is one number: torch multiplies bf16 by it in bf16."""
    for seed, choice in enumerate(covering_choices(loss, 2, 15)):
        choice |= {"shape": (9, 5), "reduction": "none", "scale": "logit_scale tensor"}
        choice |= {"label_smoothing": 0.1} if "label_smoothing" in choice else {}
        half = cast(arguments_for(loss, choice, seed), torch.bfloat16)
        small = cast(half, torch.float32, "temperature", "logit_scale", "logit_bias", "weights")
        with torch.no_grad():
            got, expected = (
                run(loss, each, backend) for each in (small, cast(half, torch.float32))
            )
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, msg=str(choice))
