"""The promise: on the loss and on every gradient, at most the error of the plain torch formula.

Errors are taken against fp64 on the very same rounded inputs. A scalar's error is a matter of
luck, so the draws of one setting are judged together, as one tensor.
"""

from __future__ import annotations

from functools import cache

import contrastile.functional as losses
import oracles
import pytest
import torch
from cases import LOSSES, arguments_for, default_choice
from helpers import Arguments, Results, assert_within_error_budget, cast, evaluate, truth

DRAWS = 3
SCALES = [1.0, 14.3, 50.0, 100.0]
DTYPES = [torch.float32, torch.bfloat16]
# Rows and sizes that no tile divides; two views double the rows.
SHAPE = (307, 136)
SHAPES = {
    "clip_loss": (401, 72),
    "nt_xent": (171, 64),
    "dcl_loss": (151, 200),
    "dclw_loss": (171, 96),
}


def draw(loss: str, crowded: bool, scale: float, dtype: torch.dtype, seed: int) -> Arguments:
    choice = default_choice(
        loss,
        shape=SHAPES.get(loss, SHAPE),
        scale="logit_scale tensor",
        value=scale,
        crowded=crowded,
    )
    arguments = cast(arguments_for(loss, choice, seed), dtype)
    arguments |= cast(arguments, torch.float32, "logit_scale")
    if loss == "siglip_loss":
        arguments["logit_bias"] = torch.tensor(-0.9 * scale, requires_grad=True)
    return arguments


def together(results: list[Results]) -> Results:
    return {name: torch.stack([result[name] for result in results]) for name in results[0]}


@cache
def setting(
    loss: str, crowded: bool, scale: float, dtype: torch.dtype
) -> tuple[list[Arguments], Results, Results]:
    """The draws, what the plain formula makes of them at their dtype, and the fp64 truth."""
    oracle = getattr(oracles, loss)
    draws = [draw(loss, crowded, scale, dtype, seed) for seed in range(DRAWS)]
    plain = together([evaluate(oracle, arguments) for arguments in draws])
    return draws, plain, together([truth(oracle, arguments) for arguments in draws])


def assert_rule(
    loss: str, draws: list[Arguments], plain: Results, exact: Results, backend: str
) -> None:
    function = getattr(losses, loss)
    got = together([evaluate(function, arguments, backend=backend) for arguments in draws])
    for name, value in got.items():
        assert_within_error_budget(value, exact[name], plain[name], f"{loss} {name}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("loss", LOSSES)
def test_many_near_rivals(loss: str, scale: float, dtype: torch.dtype, backend: str) -> None:
    assert_rule(loss, *setting(loss, True, scale, dtype), backend)


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_ruled_by_one_rival(loss: str, backend: str) -> None:
    """Far apart rows at a large scale: the plain softmax is then exact, and ours has to be."""
    assert_rule(loss, *setting(loss, False, 100.0, torch.float32), backend)


@pytest.mark.parametrize("loss", LOSSES)
def test_parameters_of_low_precision(loss: str, backend: str) -> None:
    """A scale and a bias in bf16 too, as in a model that was cast as a whole."""
    choice = default_choice(loss, shape=(171, 64), scale="logit_scale tensor", bias="tensor")
    draws = [cast(arguments_for(loss, choice, seed), torch.bfloat16) for seed in range(DRAWS)]
    plain = together([evaluate(getattr(oracles, loss), arguments) for arguments in draws])
    exact = together([truth(getattr(oracles, loss), arguments) for arguments in draws])
    assert_rule(loss, draws, plain, exact, backend)
