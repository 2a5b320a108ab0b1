"""The promise: on the loss and on every gradient, at most the error of the plain torch formula.

Errors are taken against fp64 on the very same rounded inputs, in three regimes: random pairs,
near rivals, and pairs that have converged, where losses are differences of nearly equal numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import contrastile.functional as losses
import oracles
import pytest
import torch
from cases import EVERY as LOSSES
from cases import TWO_VIEWS, arguments_for, default_choice, guides
from contrastile.losses.registry import LOSSES as REGISTRY
from helpers import (
    ONE_SUM_FOR_TWO,
    SELF_MODE,
    Arguments,
    Results,
    cast,
    evaluate,
    floats,
    generator,
    truth,
    unit_rows,
)
from rule import Verdict, judge, pooled, transposed
from selected import rest_in_gates

DRAWS = 24
SCALES = {"random": [1.0, 14.3, 100.0], "rivals": [1.0, 14.3, 50.0, 100.0]}
SCALES["converged"] = [14.3, 50.0, 100.0]
DTYPES = [torch.float32, torch.bfloat16]
# Rows and a size that no tile divides; two views double the rows.
ROWS, SIZE = 107, 72
# All of these are a log of one and more, or a sum of such.
NEVER_NEGATIVE = sorted(LOSSES.keys() - {"dcl_loss", "dclw_loss"})

Draw = Callable[[int], Arguments]


class References(NamedTuple):
    """By output and draw: the plain formula at the dtype of the inputs, and the fp64 truth."""

    plain: dict[str, list[torch.Tensor]]
    exact: dict[str, list[torch.Tensor]]


def draw(loss: str, regime: str, scale: float, dtype: torch.dtype, seed: int) -> Arguments:
    if regime == "converged":
        arguments = converged(loss, seed)
        arguments["logit_scale"] = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    else:
        rows = ROWS // 2 if loss in TWO_VIEWS else ROWS
        choice = default_choice(
            loss,
            shape=(rows, SIZE),
            scale="logit_scale tensor",
            value=scale,
            crowded=regime == "rivals",
        )
        arguments = arguments_for(loss, choice, seed)
    if "logit_bias" in REGISTRY[loss].parameters:
        bias = -0.5 if regime == "converged" else -0.9
        arguments["logit_bias"] = torch.tensor(bias * scale, requires_grad=True)
    return cast(cast(arguments, dtype), torch.float32, "logit_scale", "logit_bias")


def converged(loss: str, seed: int) -> Arguments:
    """All positives of an item agree, on odd seeds but for a little noise; some have several."""
    rng = generator(seed)
    rows = ROWS // 2 if loss in TWO_VIEWS else ROWS
    items = unit_rows(rows, SIZE, rng)

    def near(of: torch.Tensor) -> torch.Tensor:
        noise = 1e-3 * (seed % 2) * unit_rows(len(of), SIZE, rng)
        return torch.nn.functional.normalize(of + noise, dim=1).requires_grad_()

    several = torch.arange(rows).repeat_interleave(torch.arange(rows) % 3 + 2)[:rows]
    if loss == "supcon_loss":
        return {"z": near(items[several]), "labels": several}
    if loss == "multi_positive_nce":
        own = several[: rows // 2]
        ids = {"query_ids": several, "key_ids": own}
        return {"query": near(items[several]), "key": near(items[own]), **ids}
    return {
        **{name: near(items) for name in REGISTRY[loss].embeddings},
        **guides(loss, rows, 0, rng),
    }


def rows_of(function: Callable[..., torch.Tensor], arguments: Arguments) -> Results:
    """The losses of the rows; their mean without the rounding of a sum, so that errors that all
    rows share are seen.
    """
    with torch.no_grad():
        rows = function(**{**arguments, "reduction": "none"})
    return {"rows": rows, "mean": rows.double().mean().to(rows.dtype)}


def outputs(function: Callable[..., torch.Tensor], arguments: Arguments, **options: Any) -> Results:
    """The loss of the rows and their mean, the loss as it comes, and all gradients."""
    arguments = {**arguments, **options}
    return {**rows_of(function, arguments), **evaluate(function, arguments)}


def in_another_order(loss: str, arguments: Arguments, seed: int) -> Results:
    """The plain formula on permuted features; its gradients back in the order of the inputs.

    The order of a sum is luck too, so each draw takes its own.
    """
    embeddings = {n: t for n, t in floats(arguments).items() if t.ndim > 1 and t.requires_grad}
    size = next(iter(embeddings.values())).shape[-1]
    order = torch.randperm(size, generator=generator(seed))
    permuted = {n: t.detach()[..., order].requires_grad_() for n, t in embeddings.items()}
    results = outputs(getattr(oracles, loss), {**arguments, **permuted})
    back = order.argsort()
    return {n: t[..., back] if n in embeddings else t for n, t in results.items()}


def references(loss: str, make: Draw, count: int = DRAWS) -> References:
    draws = [make(seed) for seed in range(count)]
    oracle = getattr(oracles, loss)
    plain = [in_another_order(loss, arguments, seed) for seed, arguments in enumerate(draws)]
    exact = [
        {**rows_of(oracle, cast(arguments, torch.float64)), **truth(oracle, arguments)}
        for arguments in draws
    ]
    return References(transposed(plain), transposed(exact))


@cache
def setting(loss: str, regime: str, scale: float, dtype: torch.dtype) -> References:
    return references(loss, partial(draw, loss, regime, scale, dtype))


def verdicts(
    loss: str, make: Draw, known: References, backend: str, count: int, truth_within: float
) -> dict[str, list[Verdict]]:
    """By output, of the first ``count`` draws."""
    function = getattr(losses, loss)
    got = transposed([outputs(function, make(seed), backend=backend) for seed in range(count)])
    found = {}
    for name, ours in got.items():
        embedding = loss in SELF_MODE and name in {"z", "z0", "z1"}
        share = ONE_SUM_FOR_TWO if embedding else 1.0
        what = f"{loss} {name}"
        found[name] = judge(what, ours, known.plain[name], known.exact[name], share, truth_within)
    return found


def unknown(scale: float) -> float:
    """How well fp64 knows a difference of scores."""
    return 16 * torch.finfo(torch.float64).eps * scale


def assert_rule(loss: str, make: Draw, backend: str, count: int = DRAWS) -> None:
    """The rule on every output of the draws ``make(0)``, ``make(1)`` ..."""
    known = references(loss, make)
    for own in verdicts(loss, make, known, backend, count, unknown(100.0)).values():
        for verdict in own:
            assert verdict.holds, str(verdict)


@pytest.mark.parametrize("backend", rest_in_gates(["reference", "cpu"], ["cpu"]))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("regime", SCALES)
@pytest.mark.parametrize("loss", LOSSES)
def test_error_rule(loss: str, regime: str, dtype: torch.dtype, backend: str) -> None:
    """At each scale, and more sharply over all of them together."""
    every: dict[str, list[list[Verdict]]] = {}
    for scale in SCALES[regime]:
        known = setting(loss, regime, scale, dtype)
        make = partial(draw, loss, regime, scale, dtype)
        for name, own in verdicts(loss, make, known, backend, DRAWS, unknown(scale)).items():
            every.setdefault(name, []).append(own)
            for verdict in own:
                assert verdict.holds, f"scale {scale}: {verdict}"
    for settings in every.values():
        for same in zip(*settings, strict=True):
            assert pooled(same).holds, str(pooled(same))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("loss", NEVER_NEGATIVE)
def test_never_negative(loss: str, variant: str, dtype: torch.dtype, backend: str) -> None:
    """A loss that is none by its formula falls below 0 by less than an ulp of its scores."""
    options = {"variant": variant} if "variant" in LOSSES[loss] else {}
    for scale in SCALES["converged"]:
        ulp = torch.finfo(torch.float32).eps * scale
        for seed in range(4):
            arguments = {**draw(loss, "converged", scale, dtype, seed), **options}
            rows = rows_of(getattr(losses, loss), {**arguments, "backend": backend})["rows"]
            assert rows.min().item() >= -ulp


@pytest.mark.parametrize("loss", ["supcon_loss", "multi_positive_nce"])
def test_the_other_variant(loss: str, backend: str) -> None:
    """Variant "in" where positives agree: the plain formula is a difference there."""

    def make(scale: float, seed: int) -> Arguments:
        return {**draw(loss, "converged", scale, torch.float32, seed), "variant": "in"}

    for scale in SCALES["converged"]:
        assert_rule(loss, partial(make, scale), backend)


@pytest.mark.parametrize("regime", SCALES)
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_debiased_negatives(beta: float, regime: str, backend: str) -> None:
    """Where false negatives are most of all, a difference; where they are more, a bound."""

    def make(scale: float, seed: int) -> Arguments:
        arguments = draw("hard_negative_nce", regime, scale, torch.float32, seed)
        return {**arguments, "beta": beta, "tau_plus": 0.1}

    for scale in SCALES[regime]:
        assert_rule("hard_negative_nce", partial(make, scale), backend)


@pytest.mark.parametrize("loss", LOSSES)
def test_parameters_of_low_precision(loss: str, backend: str) -> None:
    """A scale and a bias in bf16 too, as in a model that was cast as a whole."""
    choice = default_choice(loss, shape=(57, 64), scale="logit_scale tensor", bias="tensor")

    def make(seed: int) -> Arguments:
        return cast(arguments_for(loss, choice, seed), torch.bfloat16)

    assert_rule(loss, make, backend)


@pytest.mark.parametrize(
    ("loss", "kind"), [("info_nce", "number"), ("info_nce", "one a key"), ("clip_loss", "number")]
)
def test_a_bias_of_all_scores(loss: str, kind: str, backend: str) -> None:
    """It cancels; in the scores it would round all of them the same way (10 times the error)."""

    def make(seed: int) -> Arguments:
        arguments = draw(loss, "random", 14.3, torch.float32, seed)
        if kind == "number":
            return {**arguments, "logit_bias": -30.0}
        bias = 2.0 * torch.randn(len(arguments["key"]), generator=generator(seed)) - 30.0
        return {**arguments, "logit_bias": bias.requires_grad_()}

    assert_rule(loss, make, backend)
