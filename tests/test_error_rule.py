"""The promise: on the loss and on every gradient, at most the error of the plain torch formula.

Errors are taken against fp64 on the very same rounded inputs. A scalar's error is a matter of
luck, so the draws of one setting are judged together, as one tensor. So is the order in which
a sum is taken: the plain formula with its features in another order misses its own error in a
quarter of the fp32 settings. Its error here is therefore the worst of a few such orders.
"""

from __future__ import annotations

from functools import cache

import contrastile.functional as losses
import oracles
import pytest
import torch
from cases import LOSSES, arguments_for, default_choice
from helpers import (
    ONE_SUM_FOR_TWO,
    SELF_MODE,
    Arguments,
    Results,
    assert_within_error_budget,
    cast,
    evaluate,
    floats,
    generator,
    truth,
)

DRAWS = 3
ORDERS = 5
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


def in_another_order(loss: str, arguments: Arguments, seed: int) -> Results:
    """The plain formula on permuted features; its gradients back in the order of the inputs."""
    embeddings = {name: t for name, t in floats(arguments).items() if t.ndim == 2}
    size = next(iter(embeddings.values())).shape[1]
    order = torch.randperm(size, generator=generator(seed)) if seed else torch.arange(size)
    permuted = {n: t.detach()[:, order].requires_grad_() for n, t in embeddings.items()}
    results = evaluate(getattr(oracles, loss), {**arguments, **permuted})
    back = order.argsort()
    return {n: t[:, back] if n in embeddings else t for n, t in results.items()}


def references(loss: str, draws: list[Arguments]) -> tuple[list[Results], Results]:
    """The plain formula at the dtype of the draws, in several orders, and the fp64 truth."""
    plain = [
        together([in_another_order(loss, arguments, seed) for arguments in draws])
        for seed in range(ORDERS)
    ]
    return plain, together([truth(getattr(oracles, loss), arguments) for arguments in draws])


@cache
def setting(
    loss: str, crowded: bool, scale: float, dtype: torch.dtype
) -> tuple[list[Arguments], list[Results], Results]:
    draws = [draw(loss, crowded, scale, dtype, seed) for seed in range(DRAWS)]
    return draws, *references(loss, draws)


def assert_rule(
    loss: str, draws: list[Arguments], plain: list[Results], exact: Results, backend: str
) -> None:
    function = getattr(losses, loss)
    got = together([evaluate(function, arguments, backend=backend) for arguments in draws])
    for name, value in got.items():
        eager = [results[name] for results in plain]
        embedding = loss in SELF_MODE and value.dim() == 3
        share = ONE_SUM_FOR_TWO if embedding else 1.0
        assert_within_error_budget(value, exact[name], *eager, what=f"{loss} {name}", share=share)


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
    assert_rule(loss, draws, *references(loss, draws), backend)
