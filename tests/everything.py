"""A call with every tensor that a loss takes, and a loss as a function of one of them."""

from __future__ import annotations

from collections.abc import Callable

import contrastile.functional as losses
import torch
from cases import LOSSES, arguments_for, default_choice
from helpers import Arguments, cast
from rejections import embeddings_of, minimal
from torch import Tensor

Function = Callable[[Tensor], Tensor]

# Options that bring every tensor.
EVERYTHING: Arguments = {
    "shape": (6, 4),
    "scale": "temperature tensor",
    "bias": "tensor",
    "weights": True,
    "ids": "few",
    "positives": True,
    "negatives": 3,
}


def everything(loss: str) -> Arguments:
    """Arguments with every tensor that the loss takes, in fp32."""
    known = LOSSES[loss].keys()
    choice = default_choice(loss, **{k: v for k, v in EVERYTHING.items() if k in known})
    made = cast(arguments_for(loss, choice), torch.float32)
    return {k: v.detach() if isinstance(v, Tensor) else v for k, v in made.items()}


def tensors(given: Arguments) -> dict[str, Tensor]:
    """Those of them that are tensors."""
    return {name: value for name, value in given.items() if isinstance(value, Tensor)}


def of_one(loss: str) -> tuple[Function, Tensor]:
    """The loss as a function of its first embeddings, and some."""
    given = minimal(loss)
    first = embeddings_of(loss)[0]
    x = torch.randn(given.pop(first).shape)
    return lambda x: getattr(losses, loss)(**{first: x, **given}), x
