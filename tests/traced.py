"""Every loss with every option in few calls, and what a call gives: for those that trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contrastile.functional as losses
import torch
from cases import EVERY as LOSSES
from cases import Choice, arguments_for, default_choice
from helpers import Arguments, cast, floats
from torch import Tensor

# What a traced call gives: the loss (or stats too), then the gradients of its tensors.
Numbers = list[Tensor | None]

ROWS, SIZE = 12, 5
# Calls of each loss that have all values of all options between them, less those below.
MIXES = range(3)
# A number is known when the call is traced, whichever of the two options it is.
SCALES = ["temperature tensor", "logit_scale", "logit_scale per row", "logit_scale tensor"]


def mixed(loss: str, mix: int) -> Choice:
    """The value of each option in one of the :data:`MIXES`."""
    options = {**LOSSES[loss], "shape": [(ROWS, SIZE)]}
    options["scale"] = [kind for kind in SCALES if kind in options["scale"]]
    return {
        name: values[(mix + place) % len(values)] if len(values) > 1 else values[0]
        for place, (name, values) in enumerate(options.items())
    }


def call_of(loss: str, mix: int) -> tuple[Callable[..., Any], Arguments]:
    """The loss with its options and ``return_stats`` bound, and the tensors that it takes."""
    given = arguments_for(loss, mixed(loss, mix))
    dtype = (torch.float32, torch.float64, torch.bfloat16)[mix]
    given = cast(given, dtype, *(n for n, t in floats(given).items() if t.dim() > 1))
    given = cast(given, torch.float32, *(n for n, t in floats(given).items() if t.dim() < 2))
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    options = {name: value for name, value in given.items() if name not in tensors}

    def call(**tensors: Tensor) -> Any:
        return getattr(losses, loss)(**tensors, **options, return_stats=mix != 1)

    return call, tensors


def numbers_of(call: Callable[..., Any], tensors: Arguments) -> Numbers:
    """The loss, the stats and the gradients of all tensors that ask for one."""
    found = call(**tensors)
    loss, stats = found if isinstance(found, tuple) else (found, None)
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    upstream = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view(loss.shape)
    grads = torch.autograd.grad(loss, leaves, upstream, allow_unused=True)
    shown = () if stats is None else (stats.lse, stats.positive, stats.rank, stats.accuracy)
    return [loss.detach(), *shown, *grads]


def plain(loss: str, rows: int = ROWS) -> tuple[Callable[..., Tensor], Arguments]:
    """The loss with ids, where it takes them, and a learnable scale; and its tensors."""
    known = LOSSES[loss]
    ids = {"ids": "few"} if "ids" in known else {}
    choice = default_choice(loss, shape=(rows, SIZE), scale="logit_scale tensor", **ids)
    given = cast(arguments_for(loss, choice), torch.float32)
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    options = {name: value for name, value in given.items() if name not in tensors}

    def call(**tensors: Tensor) -> Tensor:
        loss_of: Callable[..., Tensor] = getattr(losses, loss)
        return loss_of(**tensors, **options)

    return call, tensors


def assert_same(got: Numbers, expected: Numbers) -> None:
    """The very same numbers."""
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def assert_near(got: Numbers, expected: Numbers) -> None:
    """The same within roundings of the largest: a trace takes lengths by torch's operations."""
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None and theirs.is_floating_point():
            limit = 32 * torch.finfo(theirs.dtype).eps * float(theirs.abs().max())
            torch.testing.assert_close(ours, theirs, rtol=0, atol=limit)
        else:
            assert_same([ours], [theirs])
