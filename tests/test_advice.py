"""Advice on probable mistakes: each wrong use is told once, no right use is ever told."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import contrastile
import pytest
import torch
from cases import LOSSES
from contrastile import ContrastileWarning, clip_loss, siglip_loss
from contrastile.losses import advice
from contrastile.problem import values
from contrastile.problem.advice import GIVEN
from contrastile.testing import checked_values
from rejections import embeddings_of, minimal
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import normalize
from waits import Waits, as_on_a_device

ROWS, SIZE = 12, 64
SIGLIP = {"logit_scale": 10.0, "logit_bias": -10.0}


@pytest.fixture(autouse=True)
def fresh() -> None:
    """As in a new process."""
    forget()


def forget() -> None:
    GIVEN.clear()
    advice.CALLS.clear()


def told(call: Callable[..., Any], *args: Any, **options: Any) -> list[str]:
    """The advice that a call gives, when it is made twice."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            call(*args, **options)
    return [str(w.message) for w in caught if w.category is ContrastileWarning]


def randn(rows: int = ROWS, size: int = SIZE) -> Tensor:
    return torch.randn(rows, size)


def unit(dtype: torch.dtype = torch.float32) -> Tensor:
    return normalize(randn(), dim=1).to(dtype)


def arguments_of(loss: str, make: Callable[[], Tensor] = unit) -> dict[str, Any]:
    ids = {n: torch.arange(ROWS) // 2 for n, v in minimal(loss).items() if is_ids(v)}
    bias = {"logit_bias": -10.0} if loss == "siglip_loss" else {}
    return {**{name: make() for name in embeddings_of(loss)}, **ids, **bias}


def is_ids(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_floating_point()


# A scale that was not exponentiated, or turned negative.


FORGOTTEN = {
    "CLIP": lambda: Parameter(torch.ones([]) * math.log(1 / 0.07)),
    "its logarithm in fp32": lambda: Parameter(torch.tensor(1 / 0.07).log()),
    "clamped in the model": lambda: Parameter(torch.tensor(9.0)).clamp(max=math.log(100)),
    "typed": lambda: 2.6592,
    "typed as the FAQ prints it": lambda: 2.659,
    "SigLIP's, typed": lambda: 2.303,
    "shape (1,)": lambda: Parameter(torch.tensor([2.6592])),
    "SigLIP": lambda: Parameter(torch.tensor(math.log(10.0))),
    "fp64": lambda: torch.tensor(math.log(1 / 0.05), dtype=torch.float64),
}


@pytest.mark.parametrize("scale", FORGOTTEN.values(), ids=FORGOTTEN.keys())
def test_a_forgotten_exponential_is_told_once(scale: Callable[[], Any]) -> None:
    (text,) = told(clip_loss, unit(), unit(), logit_scale=scale())
    assert text.startswith("clip_loss: the scale ")
    assert "pass logit_scale=log_scale.exp()" in text
    assert 'warnings.filterwarnings("ignore", category=contrastile.ContrastileWarning)' in text


RIGHT_SCALES = {
    "CLIP": lambda: Parameter(torch.tensor(math.log(1 / 0.07))).exp(),
    "CLIP, clamped": lambda: Parameter(torch.tensor(9.0)).exp().clamp(max=100),
    "learned as it is": lambda: Parameter(torch.tensor(14.3)),
    "a low one": lambda: Parameter(torch.tensor(2.66)),
    "another low one": lambda: 2.3,
    "half precision": lambda: Parameter(torch.tensor(2.65625, dtype=torch.bfloat16)),
    "one": lambda: 1,
    "none": lambda: torch.tensor(0.0),
    "one a row": lambda: torch.rand(ROWS) + 0.1,
}


@pytest.mark.parametrize("scale", RIGHT_SCALES.values(), ids=RIGHT_SCALES.keys())
def test_right_scales_are_not_told(scale: Callable[[], Any]) -> None:
    assert not told(clip_loss, unit(), unit(), logit_scale=scale())


def test_a_scale_learned_as_it_is_may_pass_through_any_value() -> None:
    """From 10 down to 2 in 16,000 steps of training, past four of the logarithms."""
    rng = torch.Generator().manual_seed(0)
    steps = 5e-4 * (1 + 0.5 * torch.randn(16_000, generator=rng))
    scales = [float(scale) for scale in 10 - steps.cumsum(0)]
    assert scales[-1] < min(advice.LOGARITHMS)
    assert not any(advice.forgotten_exponential(scale) for scale in scales)


def test_a_negative_scale_is_told_once() -> None:
    (text,) = told(clip_loss, unit(), unit(), logit_scale=-3.0)
    assert text.startswith("clip_loss: logit_scale is negative (-3), which pulls negatives closer")
    per_row = torch.full((ROWS,), 5.0)
    per_row[3] = -0.5
    assert not told(clip_loss, unit(), unit(), logit_scale=per_row)
    forget()
    (text,) = told(clip_loss, unit(), unit(), logit_scale=per_row)
    assert "negative (-0.5)" in text


# Embeddings that were not normalised.


@pytest.mark.parametrize("loss", LOSSES)
def test_long_embeddings_with_a_small_temperature_are_told_once(loss: str) -> None:
    function = getattr(contrastile, loss)
    (text,) = told(function, **arguments_of(loss, randn), temperature=0.07)
    assert text.startswith(f"{loss}: the embeddings are not of unit length")
    assert "pass normalize=True, or a larger temperature" in text
    # In order, by a tensor, from a module: the same look.
    forget()
    arguments = arguments_of(loss, randn)
    tensors = [v for v in arguments.values() if isinstance(v, Tensor)]
    rest = {k: v for k, v in arguments.items() if not isinstance(v, Tensor)}
    assert len(told(function, *tensors, **rest, logit_scale=torch.tensor(20.0))) == 1


def one_long_row() -> Tensor:
    x = unit()
    x[0] *= 100
    return x


def padded() -> Tensor:
    x = randn()
    x[0] = 0
    return x


RIGHT_LENGTHS: dict[str, tuple[Callable[[], Tensor], dict[str, Any]]] = {
    **{f"unit, {t}": (unit, {"temperature": t}) for t in (1.0, 0.07, 0.01, 0.005, 1e-4)},
    **{
        f"unit in {dtype}": (lambda dtype=dtype: unit(dtype), {"temperature": 0.005})
        for dtype in (torch.bfloat16, torch.float16, torch.float64)
    },
    "unit, learned": (unit, {"logit_scale": Parameter(torch.tensor(100.0))}),
    "normalised here": (lambda: 50 * randn(), {"temperature": 0.01, "normalize": True}),
    "dot products": (lambda: 27 * unit(), {"temperature": 1.0}),
    "attention": (lambda: randn() * 5, {"logit_scale": SIZE**-0.5}),
    "scaled before": (lambda: unit() * 100**0.5, {"temperature": 1.0}),
    "a radius": (lambda: unit() * 8, {"temperature": 0.5}),
    "at the start": (lambda: 0.02 * randn(), {"temperature": 0.07}),
    "one long row": (one_long_row, {"temperature": 0.07}),
    "padded": (padded, {"temperature": 0.07}),
    "no rows": (lambda: torch.zeros(0, SIZE), {"temperature": 0.07}),
    "no numbers": (lambda: torch.full((ROWS, SIZE), torch.nan), {"temperature": 0.07}),
}


@pytest.mark.parametrize(("make", "options"), RIGHT_LENGTHS.values(), ids=RIGHT_LENGTHS.keys())
def test_right_lengths_are_not_told(make: Callable[[], Tensor], options: dict[str, Any]) -> None:
    assert not told(clip_loss, make(), make(), margin=0.3, **options)


# The bias of SigLIP.


def test_siglip_without_a_bias_is_told_once() -> None:
    (text,) = told(siglip_loss, unit(), unit(), logit_scale=10.0)
    assert text.startswith("siglip_loss: without a logit_bias each negative starts")
    assert "If it is meant: logit_bias=0.0, or warnings.filterwarnings" in text
    forget()
    module = contrastile.SigLip(logit_scale=10.0)
    assert len(told(module, unit(), unit())) == 1


@pytest.mark.parametrize("bias", [0.0, -10, Parameter(torch.tensor(-10.0))])
def test_siglip_with_a_bias_is_not_told(bias: Any) -> None:
    assert not told(siglip_loss, unit(), unit(), logit_scale=10.0, logit_bias=bias)


# How it is told.


def test_advice_points_at_the_line_that_called() -> None:
    for call in (siglip_loss, contrastile.SigLip()):
        forget()
        with pytest.warns(ContrastileWarning) as caught:
            call(unit(), unit(), logit_scale=10.0)
        assert caught[0].filename == __file__


def test_advice_as_an_error_stays_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ContrastileWarning)
        for _ in range(2):
            with pytest.raises(ContrastileWarning):
                siglip_loss(unit(), unit(), logit_scale=10.0)


def test_every_function_is_told_for_itself() -> None:
    for loss in ("clip_loss", "info_nce"):
        assert len(told(getattr(contrastile, loss), randn(), randn(), temperature=0.01)) == 1


def test_no_advice_on_a_call_that_fails() -> None:
    with warnings.catch_warnings(), pytest.raises(contrastile.InputError, match="weights"):
        warnings.simplefilter("error", ContrastileWarning)
        siglip_loss(randn(), randn(), temperature=0.01, weights=torch.ones(3))


def test_looks_become_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 1st, 2nd, 4th, 8th, 16th and 32nd of 40 calls; all where values are checked."""
    looks = 0

    def scale(options: object) -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(advice, "_smallest_scale", scale)
    x = unit()
    for _ in range(40):
        clip_loss(x, x, temperature=0.07)
    assert looks == 6
    with checked_values():
        for _ in range(40):
            clip_loss(x, x, temperature=0.07)
    assert looks == 46


# On a device, where a look waits.


def test_on_a_device_the_first_call_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_device(monkeypatch)
    x, y = randn(), randn()
    assert len(told(clip_loss, x, y, temperature=0.07)) == 1
    GIVEN.clear()
    with Waits() as waits:
        assert not told(clip_loss, x, y, logit_scale=torch.tensor(-20.0), backend="triton")
    assert not waits.found


def test_a_graph_is_captured_without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_device(monkeypatch)
    x, y = randn(), randn()
    monkeypatch.setattr(values, "capturing", lambda tensor: True)
    assert not told(clip_loss, x, y, temperature=0.07)
    monkeypatch.setattr(values, "capturing", lambda tensor: False)
    assert len(told(clip_loss, x, y, temperature=0.07)) == 1


def test_a_compiled_step_is_not_told() -> None:
    step = torch.compile(lambda x, y: siglip_loss(x, y, logit_scale=-20.0), backend="eager")
    x, y = randn(), randn()
    assert not told(step, x, y)
    with checked_values():
        assert torch.allclose(step(x, y), siglip_loss(x, y, logit_scale=-20.0))


def test_a_warm_up_is_no_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are not the user's; the first call after it is."""
    as_on_a_device(monkeypatch)
    assert not told(contrastile.warm_up, siglip_loss, 8, 4, logit_scale=-20.0)
    assert len(told(siglip_loss, randn(), randn(), logit_scale=-20.0, logit_bias=0.0)) == 1
