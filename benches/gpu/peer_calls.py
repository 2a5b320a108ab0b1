"""How other libraries are called: each of their losses as a function of our inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

import torch
from contrastile.losses.inputs import Inputs
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..naive import LossFunction
from .settings import SCALE


@dataclass(frozen=True)
class Peer:
    """A library with some of our losses.

    Args:
        name: of its wheel.
        module: what is imported.
        losses: a builder for each loss it has.
        learns_scale: its scale may be a tensor, which gets a gradient.
        most: rows that it is timed with.
    """

    name: str
    module: str
    losses: Mapping[str, Callable[[], LossFunction]]
    learns_scale: bool = True
    most: float = math.inf


def open_clip_softmax() -> LossFunction:
    module = import_module("open_clip.loss").ClipLoss()
    return lambda inputs: module(*inputs.embeddings, inputs.scale)


def open_clip_sigmoid() -> LossFunction:
    module = import_module("open_clip.loss").SigLipLoss()
    return lambda inputs: module(*inputs.embeddings, inputs.scale, inputs.bias)


def cut_cross_entropy() -> LossFunction:
    return both_ways(import_module("cut_cross_entropy").linear_cross_entropy)


def liger() -> LossFunction:
    name = "liger_kernel.transformers.fused_linear_cross_entropy"
    module = import_module(name).LigerFusedLinearCrossEntropyLoss()
    return both_ways(lambda query, key, target: module(key, query, target))


def memeff() -> LossFunction:
    """Without the gradients' own unit that it has by default."""
    build = import_module("memeff").MemoryEfficientCLIPLoss
    module = build(temperature=1 / SCALE, normalized_inputs=True, stable=False)
    return lambda inputs: module(*inputs.embeddings)


def siglip_kernel() -> LossFunction:
    function = import_module("siglip_kernel").fused_siglip_loss
    return lambda inputs: function(*inputs.embeddings, scale_of(inputs).log(), inputs.bias)


def inf_cl() -> LossFunction:
    flash = import_module("inf_cl").cal_flash_loss

    def loss(inputs: Inputs) -> Tensor:
        x, y = inputs.embeddings
        # What its kernels take as a head has to divide the embedding size, a power of two.
        options = {"scale": inputs.scale, "head_dim": math.gcd(x.shape[1], 256)}
        return (flash(x, y, **options).mean() + flash(y, x, **options).mean()) / 2

    return loss


def late_interaction() -> LossFunction:
    """Late interaction of one token a side is a dot product: it has the scores, torch the rest."""
    maxsim = import_module("late_interaction_kernels").maxsim

    def loss(inputs: Inputs) -> Tensor:
        x, y = inputs.embeddings
        scores = scale_of(inputs) * maxsim(x[:, None], y[:, None])
        target = torch.arange(len(x), device=x.device)
        return (cross_entropy(scores, target) + cross_entropy(scores.T, target)) / 2

    return loss


def both_ways(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> LossFunction:
    """clip_loss of a linear cross-entropy whose classes are the other side's rows."""

    def loss(inputs: Inputs) -> Tensor:
        x, y = inputs.embeddings
        target = torch.arange(len(x), device=x.device)
        rows = function((inputs.scale * x).to(x.dtype), y, target)
        columns = function((inputs.scale * y).to(y.dtype), x, target)
        return (rows + columns) / 2

    return loss


def scale_of(inputs: Inputs) -> Tensor:
    """The scale of a peer that can learn it."""
    assert isinstance(inputs.scale, Tensor)
    return inputs.scale


PEERS = (
    Peer("memeff", "memeff", {"clip_loss": memeff}, learns_scale=False),
    Peer("siglip-kernel", "siglip_kernel", {"siglip_loss": siglip_kernel}),
    Peer("inf-cl", "inf_cl", {"clip_loss": inf_cl}),
    Peer("liger-kernel", "liger_kernel", {"clip_loss": liger}),
    # All scores, and which of 16 tokens each is of.
    Peer(
        "late-interaction-kernels",
        "late_interaction_kernels",
        {"clip_loss": late_interaction},
        most=8192,
    ),
    Peer(
        "open_clip_torch",
        "open_clip",
        {"clip_loss": open_clip_softmax, "siglip_loss": open_clip_sigmoid},
    ),
    Peer("cut-cross-entropy", "cut_cross_entropy", {"clip_loss": cut_cross_entropy}),
)
