"""Losses of other libraries, called as their documentation says. None of them is required."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from contrastile.losses.inputs import Inputs
from contrastile.losses.registry import SOFTMAX_SCALE
from torch import Tensor

from ..cases import Case
from ..naive import LossFunction
from .base import too_large
from .torchvision_ops import import_torchvision

TEMPERATURE = 1 / SOFTMAX_SCALE
# Rows of one chunk of sentence-transformers: larger is faster, and no encoder limits it here.
CHUNK = 1024


@dataclass(frozen=True)
class Peer:
    """A library with some of the losses.

    Args:
        module: what must be installed.
        losses: a builder for each loss it has.
        matrices: N x M buffers it holds at once.
    """

    name: str
    module: str
    losses: Mapping[str, Callable[[Case], LossFunction]]
    matrices: float
    eager: bool = True

    def unavailable(self) -> str | None:
        return None if find_spec(self.module) else f"{self.module} is not installed"

    def supports(self, case: Case) -> str | None:
        if case.negatives:
            return "takes as many keys as queries"
        return too_large(case, self.matrices)

    def build(self, case: Case) -> LossFunction:
        return self.losses[case.loss](case)


def library(name: str) -> Any:
    """A module of a peer; some of them import torchvision on the way."""
    import_torchvision()
    return import_module(name)


def open_clip_softmax(case: Case) -> LossFunction:
    module = library("open_clip.loss").ClipLoss()
    return lambda inputs: module(*inputs.embeddings, inputs.scale)


def open_clip_sigmoid(case: Case) -> LossFunction:
    module = library("open_clip.loss").SigLipLoss()
    return lambda inputs: module(*inputs.embeddings, inputs.scale, inputs.bias)


def lightly(name: str) -> Callable[[Case], LossFunction]:
    def build(case: Case) -> LossFunction:
        module = getattr(library("lightly.loss"), name)(temperature=TEMPERATURE)
        return lambda inputs: module(*inputs.embeddings)

    return build


def metric_learning_pairs(case: Case) -> LossFunction:
    losses = library("pytorch_metric_learning.losses")
    module = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=TEMPERATURE))
    return lambda inputs: module(*inputs.embeddings)


def metric_learning_labels(case: Case) -> LossFunction:
    module = library("pytorch_metric_learning.losses").SupConLoss(temperature=TEMPERATURE)
    return lambda inputs: module(*inputs.embeddings, *inputs.labels)


def info_nce_pytorch(case: Case) -> LossFunction:
    module = library("info_nce").InfoNCE(temperature=TEMPERATURE)
    return lambda inputs: module(*inputs.embeddings)


def cached_ranking(case: Case) -> LossFunction:
    transformer = library("sentence_transformers").SentenceTransformer
    losses = library("sentence_transformers.sentence_transformer.losses")
    # The loss asks its model nothing but whether its first module is a static embedding.
    model = transformer(modules=[torch.nn.Identity()], device="cpu")
    module = losses.CachedMultipleNegativesRankingLoss(model, SOFTMAX_SCALE, mini_batch_size=CHUNK)

    def loss(inputs: Inputs) -> Tensor:
        if not case.training:
            value: Tensor = module.calculate_loss([[e] for e in inputs.embeddings])
            return value
        # It walks backward chunk by chunk inside the loss and hands the cached gradients on.
        leaves = [e.detach().requires_grad_() for e in inputs.embeddings]
        value = module.calculate_loss([[e] for e in leaves], with_backward=True)
        cached = [e.grad for e in leaves if e.grad is not None]
        carriers = [(e * g).sum() for e, g in zip(inputs.embeddings, cached, strict=True)]
        carrier = torch.stack(carriers).sum()
        return value + carrier - carrier.detach()

    return loss


class MetricLearning(Peer):
    def supports(self, case: Case) -> str | None:
        reason = super().supports(case)
        if reason is None and case.loss == "nt_xent":
            # Every one of the N positive pairs meets every one of the N^2 negative pairs.
            return too_large(case, 3 * case.n)
        return reason


PEERS = (
    Peer(
        "open_clip",
        "open_clip",
        {"clip_loss": open_clip_softmax, "siglip_loss": open_clip_sigmoid},
        matrices=6,
    ),
    Peer(
        "sentence-transformers", "sentence_transformers", {"info_nce": cached_ranking}, matrices=0
    ),
    Peer(
        "lightly",
        "lightly",
        {
            "nt_xent": lightly("NTXentLoss"),
            "dcl_loss": lightly("DCLLoss"),
            "dclw_loss": lightly("DCLWLoss"),
        },
        matrices=6,
    ),
    MetricLearning(
        "pytorch-metric-learning",
        "pytorch_metric_learning",
        {"nt_xent": metric_learning_pairs, "supcon_loss": metric_learning_labels},
        matrices=8,
    ),
    Peer("info-nce-pytorch", "info_nce", {"info_nce": info_nce_pytorch}, matrices=4),
)
