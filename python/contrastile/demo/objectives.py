"""The losses of the demo, each twice: as users write it in plain torch, and by Contrastile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import functional

# (images [N, D], names [N, D], scale, bias) -> loss
LossFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """A loss, where its learnable scale and bias start, and a rate at which it learns smoothly.

    Faster training is unstable: it amplifies the last digit until two runs cannot be compared.
    """

    dense: LossFunction
    tiled: Callable[..., Tensor]
    learning_rate: float
    scale: float = 1 / 0.07
    bias: float = 0.0

    def contrastile(self, backend: str, group: object = None) -> LossFunction:
        """The loss by Contrastile on that backend, of all ranks' rows if there is a group."""
        return partial(self.tiled, backend=backend, group=group, grad_scale="sum")


def dense_info_nce(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.cross_entropy(scale * x @ y.T, torch.arange(len(x), device=x.device))


def dense_clip(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale * x @ y.T
    labels = torch.arange(len(x), device=x.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def dense_siglip(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale * x @ y.T + bias
    signs = 2 * torch.eye(len(x), device=x.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(x)


def tiled_info_nce(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, **options: Any) -> Tensor:
    return functional.info_nce(x, y, logit_scale=scale, **options)


def tiled_clip(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, **options: Any) -> Tensor:
    return functional.clip_loss(x, y, logit_scale=scale, **options)


def tiled_siglip(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, **options: Any) -> Tensor:
    return functional.siglip_loss(x, y, logit_scale=scale, logit_bias=bias, **options)


OBJECTIVES = {
    "clip": Objective(dense_clip, tiled_clip, learning_rate=0.02),
    "info_nce": Objective(dense_info_nce, tiled_info_nce, learning_rate=0.02),
    "siglip": Objective(dense_siglip, tiled_siglip, learning_rate=0.005, scale=10.0, bias=-10.0),
}
