"""Laws that hold for any input: agreement with the oracle, and what symmetry demands."""

from __future__ import annotations

import math
from typing import Any

import contrastile.functional as losses
import oracles
import pytest
import torch
from cases import LOSSES, TWO_VIEWS, Choice, allowed, arguments_for, default_choice
from helpers import (
    Arguments,
    Results,
    assert_results_close,
    cast,
    evaluate,
    floats,
    generator,
    truth,
)
from hypothesis import given
from hypothesis import strategies as st
from layouts import LAYOUTS, embedding_names, laid_out
from torch import Tensor

SOFTMAX = [loss for loss in LOSSES if loss not in ("siglip_loss", "dclw_loss")]
ROWWISE = [loss for loss in LOSSES if loss != "multi_positive_nce"]


@st.composite
def choices(draw: st.DrawFn, loss: str) -> Choice:
    options = {name: draw(st.sampled_from(values)) for name, values in LOSSES[loss].items()}
    options["shape"] = (draw(st.integers(1, 48)), draw(st.integers(1, 48)))
    options["value"] = draw(st.floats(0.5, 100))
    return options


@pytest.mark.parametrize("loss", LOSSES)
@given(data=st.data())
def test_fp64_agrees_with_the_oracle(loss: str, backend: str, data: st.DataObject) -> None:
    choice = data.draw(choices(loss).filter(allowed))
    arguments = arguments_for(loss, choice, data.draw(st.integers(0, 2**20)))
    layout = st.sampled_from(list(LAYOUTS))
    chosen = {name: data.draw(layout) for name in embedding_names(arguments)}
    function, bases = laid_out(getattr(losses, loss), arguments, chosen)
    oracle, _ = laid_out(getattr(oracles, loss), arguments, chosen)
    workspace = data.draw(st.sampled_from([None, 4096]))
    got = evaluate(function, bases, backend=backend, workspace=workspace)
    # A gradient that cancels to nothing is a difference of terms as large as the scale.
    atol = 1e-12 * (1 + choice["value"])
    assert_results_close(got, evaluate(oracle, bases), rtol=1e-10, atol=atol)


@pytest.mark.parametrize("loss", LOSSES)
@given(data=st.data())
def test_low_dtypes_are_near_the_oracle(loss: str, backend: str, data: st.DataObject) -> None:
    choice = data.draw(choices(loss).filter(allowed))
    choice |= {"scale": "logit_scale", "bias": None, "reduction": "mean"}
    dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
    arguments = arguments_for(loss, choice, data.draw(st.integers(0, 2**20)))
    for name in embedding_names(arguments):
        arguments = cast(arguments, data.draw(dtypes), name)
    got = evaluate(getattr(losses, loss), arguments, backend=backend)
    expected = truth(getattr(oracles, loss), arguments)
    # A score errs by scale * eps of fp32; a gradient also by the rounding of its strips.
    scale = choice["value"]
    score_error = 4 * (1 + scale) * torch.finfo(torch.float32).eps
    pairs = choice["shape"][0] if loss == "siglip_loss" else 4
    loss_error = {"loss": got.pop("loss")}, {"loss": expected.pop("loss")}
    assert_results_close(*loss_error, rtol=score_error, atol=pairs * score_error)
    coarsest = max(torch.finfo(t.dtype).eps for t in floats(arguments).values() if t.requires_grad)
    atol = scale * pairs * (coarsest + 4 * score_error)
    assert_results_close(got, expected, rtol=coarsest, atol=atol)


def arguments_of(loss: str, **changes: Any) -> Arguments:
    changes = {"shape": (12, 6), **changes}
    changes.setdefault("ids", "few" if "ids" in LOSSES[loss] else None)
    return arguments_for(loss, default_choice(loss, **changes))


def values_of(loss: str, arguments: Arguments, backend: str) -> Results:
    return evaluate(getattr(losses, loss), arguments, backend=backend)


def is_of_rows(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows


@pytest.mark.parametrize("loss", ROWWISE)
def test_order_of_the_pairs_is_irrelevant(loss: str, backend: str) -> None:
    arguments = arguments_of(loss, weights=True, reduction="sum")
    order = torch.randperm(12, generator=generator(3))
    if loss == "info_nce":
        # Three keys belong to no query; they stay where they are.
        keys = torch.cat([order, torch.arange(12, 15)])
    shuffled = {
        name: value[order].detach().requires_grad_(value.requires_grad)
        if is_of_rows(value, 12)
        else value[keys].detach().requires_grad_(value.requires_grad)
        if is_of_rows(value, 15)
        else value
        for name, value in arguments.items()
    }
    expected = values_of(loss, arguments, backend)
    for name, value in expected.items():
        if is_of_rows(value, 12):
            expected[name] = value[order]
        elif is_of_rows(value, 15):
            expected[name] = value[keys]
    assert_results_close(values_of(loss, shuffled, backend), expected)


@pytest.mark.parametrize("loss", ["clip_loss", "siglip_loss"])
def test_swapping_the_sides_swaps_the_gradients(loss: str, backend: str) -> None:
    arguments = arguments_of(loss, scale="logit_scale tensor")
    swapped = {**arguments, "x": arguments["y"], "y": arguments["x"]}
    expected = values_of(loss, arguments, backend)
    expected["x"], expected["y"] = expected["y"], expected["x"]
    assert_results_close(values_of(loss, swapped, backend), expected)


@pytest.mark.parametrize("loss", TWO_VIEWS)
def test_swapping_the_views_swaps_the_gradients(loss: str, backend: str) -> None:
    arguments = arguments_of(loss)
    swapped = {**arguments, "z0": arguments["z1"], "z1": arguments["z0"]}
    expected = values_of(loss, arguments, backend)
    expected["z0"], expected["z1"] = expected["z1"], expected["z0"]
    assert_results_close(values_of(loss, swapped, backend), expected)


@pytest.mark.parametrize("bias", [5.0, -80.0])
@pytest.mark.parametrize("loss", SOFTMAX)
def test_softmax_losses_do_not_see_a_bias(loss: str, bias: float, backend: str) -> None:
    arguments = arguments_of(loss)
    expected = values_of(loss, arguments, backend)
    shifted = {
        **arguments,
        "logit_bias": torch.tensor(bias, dtype=torch.float64, requires_grad=True),
    }
    got = values_of(loss, shifted, backend)
    assert got.pop("logit_bias").abs() < 1e-12
    assert_results_close(got, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_longer_rows_are_a_larger_scale(loss: str, backend: str) -> None:
    factor = 3.0
    arguments = arguments_of(loss, value=9.0, scale="logit_scale")
    names = embedding_names(arguments)
    if loss not in ("supcon_loss", *TWO_VIEWS):
        names = names[:1]
    longer = {n: (factor * arguments[n]).detach().requires_grad_() for n in names}
    power = factor if len(names) == 1 and loss != "supcon_loss" else factor**2
    expected = values_of(loss, {**arguments, "logit_scale": 9.0 * power}, backend)
    if "sigma" in arguments:
        arguments["sigma"] *= power
    got = values_of(loss, {**arguments, **longer}, backend)
    for name in names:
        got[name] = got[name] * factor
    assert_results_close(got, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_temperature_is_one_over_scale(loss: str, backend: str) -> None:
    arguments = arguments_of(loss)
    arguments.pop("temperature", None)
    got = values_of(loss, {**arguments, "temperature": 0.125}, backend)
    assert_results_close(
        got, values_of(loss, {**arguments, "logit_scale": 8.0}, backend), rtol=1e-13
    )


@pytest.mark.parametrize("empty", ["zero", "skip"])
@pytest.mark.parametrize("loss", LOSSES)
def test_reductions_tell_one_story(loss: str, empty: str, backend: str) -> None:
    changes = {"direction": "rows"} if loss == "multi_positive_nce" else {}
    arguments = arguments_of(loss, empty=empty, weights=True, **changes)
    function = getattr(losses, loss)
    rows, total, mean = (
        function(**{**arguments, "reduction": reduction}, backend=backend)
        for reduction in ("none", "sum", "mean")
    )
    count = len(rows) if empty == "zero" else int((rows != 0).sum())
    assert count > 1
    torch.testing.assert_close(rows.sum(), total, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(mean * count, total, rtol=1e-12, atol=1e-13)


def test_duplicated_batch_with_ids_is_a_margin(backend: str) -> None:
    """Twice the batch, copies kept out: each rival counts twice, as if the positive lost log 2."""
    arguments = arguments_of("clip_loss", ids=None, reduction="none")
    scale = 9.0
    x, y = arguments["x"].detach(), arguments["y"].detach()
    doubled = losses.clip_loss(
        torch.cat([x, x]),
        torch.cat([y, y]),
        ids=torch.arange(12).repeat(2),
        logit_scale=scale,
        reduction="none",
        backend=backend,
    )
    once = losses.clip_loss(
        x, y, logit_scale=scale, margin=math.log(2) / scale, reduction="none", backend=backend
    )
    torch.testing.assert_close(doubled, torch.cat([once, once]), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("variant", ["out", "in"])
def test_duplicated_keys_add_log_two(variant: str, backend: str) -> None:
    arguments = arguments_of("multi_positive_nce", reduction="none", ids="few")
    arguments |= {"variant": variant, "direction": "rows"}
    once = losses.multi_positive_nce(**arguments, backend=backend)
    twice = {n: torch.cat([arguments[n], arguments[n]]).detach() for n in ("key", "key_ids")}
    got = losses.multi_positive_nce(**{**arguments, **twice}, backend=backend)
    filled = once != 0
    assert filled.any()
    torch.testing.assert_close(got[filled], once[filled] + math.log(2), rtol=1e-11, atol=1e-12)


def test_duplicated_texts_double_siglip(backend: str) -> None:
    arguments = arguments_of("siglip_loss", ids=None)
    x, y = arguments["x"].detach(), arguments["y"].detach()
    options = dict(logit_scale=9.0, logit_bias=-4.0, reduction="none", backend=backend)
    once = losses.siglip_loss(x, y, **options)
    ids = torch.arange(12).repeat(2)
    twice = losses.siglip_loss(torch.cat([x, x]), torch.cat([y, y]), ids=ids, **options)
    torch.testing.assert_close(twice, 2 * torch.cat([once, once]), rtol=1e-11, atol=1e-12)


def test_nt_xent_is_supcon_of_two_views(backend: str) -> None:
    arguments = arguments_of("nt_xent", ids=None)
    z0, z1 = arguments["z0"].detach(), arguments["z1"].detach()
    expected = losses.nt_xent(z0, z1, temperature=0.2, reduction="none", backend=backend)
    z, labels = torch.cat([z0, z1]), torch.arange(12).repeat(2)
    for variant in ("out", "in"):
        got = losses.supcon_loss(
            z, labels, variant=variant, temperature=0.2, reduction="none", backend=backend
        )
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)
