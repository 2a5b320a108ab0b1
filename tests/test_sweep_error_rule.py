"""The error rule for prefixes of one sweep: at most the error of the plain formula in torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import contrastile.functional as losses
import oracles
import pytest
import torch
from contrastile import matryoshka
from helpers import Arguments, cast, evaluate, generator, truth, unit_rows
from rule import Verdict, judge, pooled, transposed
from torch import Tensor
from torch.nn.functional import normalize

DRAWS, ROWS = 16, 107
DIMS = (16, 40, 72)
SCALES = {"random": [1.0, 14.3, 100.0], "rivals": [1.0, 14.3, 50.0, 100.0]}
SCALES["converged"] = [14.3, 50.0, 100.0]
# An embedding's gradient has a part through the lengths of its prefixes. The plain formula takes it
# out of the other part, with the rounding errors that this has along the embedding; a sweep has it
# from rounded cosines, as no prefix's gradient is there by itself.
THROUGH_LENGTHS = 2.0
LOSSES = {"clip_loss": ("x", "y"), "info_nce": ("query", "key"), "siglip_loss": ("x", "y")}


def draw(
    regime: str, scale: float, dtype: torch.dtype, names: tuple[str, str], seed: int
) -> Arguments:
    """Both sides of the pairs, in no prefix of unit length."""
    rng = generator(seed)
    x = unit_rows(ROWS, DIMS[-1], rng)
    y = unit_rows(ROWS, DIMS[-1], rng)
    if regime == "rivals":
        shared = unit_rows(1, DIMS[-1], rng)
        x, y = shared + 0.1 * x, shared + 0.1 * y
    if regime == "converged":
        y = x + 1e-3 * (seed % 2) * y
    lengths = torch.rand(2, ROWS, 1, generator=rng, dtype=torch.float64) + 0.5
    sides = {name: side * own for name, side, own in zip(names, (x, y), lengths, strict=True)}
    arguments = {k: v.to(dtype).requires_grad_() for k, v in sides.items()}
    return {**arguments, "logit_scale": torch.tensor(scale, requires_grad=True)}


def ours(loss: str, names: tuple[str, str], **given: Any) -> Tensor:
    sides = [given.pop(name) for name in names]
    return matryoshka(getattr(losses, loss), *sides, dims=DIMS, **given)


def plain(loss: str, names: tuple[str, str], order: Tensor | None = None, **given: Any) -> Tensor:
    """The sum over prefixes; ``order``: of their features, as that of a sum is luck."""
    sides = [given.pop(name) for name in names]
    total = torch.zeros((), dtype=sides[0].dtype)
    for size in DIMS:
        own = [side[:, :size].to(given["logit_scale"].dtype) for side in sides]
        if order is not None:
            own = [side[:, order[order < size]] for side in own]
        cut = dict(zip(names, (normalize(side, dim=1) for side in own), strict=True))
        total = total + getattr(oracles, loss)(**cut, **given)
    return total


def reordered(
    loss: str, names: tuple[str, str], arguments: Arguments, seed: int
) -> dict[str, Tensor]:
    order = torch.randperm(DIMS[-1], generator=generator(1000 + seed))
    return evaluate(partial(plain, loss, names, order), arguments)


@pytest.mark.gates
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("regime", SCALES)
@pytest.mark.parametrize("loss", LOSSES)
def test_error_rule(loss: str, regime: str, dtype: torch.dtype) -> None:
    names = LOSSES[loss]
    every: dict[str, list[list[Verdict]]] = {}
    for scale in SCALES[regime]:
        draws = [draw(regime, scale, dtype, names, seed) for seed in range(DRAWS)]
        options = {"logit_bias": -0.9 * scale} if loss == "siglip_loss" else {}
        got = transposed([evaluate(partial(ours, loss, names, **options), a) for a in draws])
        theirs = transposed(
            [reordered(loss, names, {**a, **options}, seed) for seed, a in enumerate(draws)]
        )
        wide = [cast(a, torch.float64) for a in draws]
        exact = transposed([truth(partial(plain, loss, names, **options), a) for a in wide])
        unknown = 16 * torch.finfo(torch.float64).eps * scale
        for name, values in got.items():
            share = THROUGH_LENGTHS if name in names else 1.0
            own = judge(f"{loss} {name}", values, theirs[name], exact[name], share, unknown)
            every.setdefault(name, []).append(own)
            for verdict in own:
                assert verdict.holds, f"scale {scale}: {verdict}"
    for settings in every.values():
        for same in zip(*settings, strict=True):
            assert pooled(same).holds, str(pooled(same))
