"""Training of one model with one loss, and its retrieval."""

from __future__ import annotations

import copy
import math
import time

import torch
import torch.distributed as dist
from torch import Tensor

from ..training import GradientCache
from .data import Glyphs
from .model import ImageTextModel
from .objectives import LossFunction

WARM_UP = 20
# Larger than usual: dividing by a tiny root mean square would blow up gradients that are nothing
# but rounding, and the two runs could not be compared.
EPSILON = 1e-4
RETRIEVED = 10
QUERIES_AT_ONCE = 1024


class Trainer:
    """Trains its own copy of a model and keeps what it measures.

    Args:
        model: what is copied.
        loss: of embeddings, scale and bias.
        learning_rate, steps: of the schedule.
        sub_batch: how many pairs the encoders see at once; None: all.
        group: whose ranks each train with a part of the batch.

    Attributes:
        losses: of the steps so far.
        loss_seconds: spent in the loss, forward and backward.
        seconds: spent in everything.
    """

    def __init__(
        self,
        model: ImageTextModel,
        loss: LossFunction,
        learning_rate: float,
        steps: int,
        sub_batch: int | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.model = copy.deepcopy(model)
        self._loss, self._sub_batch, self._group = loss, sub_batch, group
        self._optimizer = torch.optim.AdamW(self.model.parameters(), learning_rate, eps=EPSILON)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: _rate(step, steps)
        )
        self.losses: list[float] = []
        self.loss_seconds = 0.0
        self.seconds = 0.0

    def step(self, images: Tensor, words: Tensor) -> None:
        """One step on a batch. The loss has a clock of its own, so it gets detached inputs."""
        start = _now(images.device)
        cache = None if self._sub_batch is None else GradientCache(self._sub_batch)
        outputs = self._outputs(cache, images, words)
        leaves = [output.detach().requires_grad_() for output in outputs]
        before = _now(images.device)
        loss = self._loss(*leaves)
        loss.backward()
        after = _now(images.device)
        used = [(o, leaf.grad) for o, leaf in zip(outputs, leaves, strict=True)]
        outputs, grads = zip(*((o, grad) for o, grad in used if grad is not None), strict=True)
        self._optimizer.zero_grad()
        if cache is None:
            torch.autograd.backward(outputs, grads)
        else:
            # A number whose gradients are these.
            parts = [(o * grad).sum() for o, grad in zip(outputs, grads, strict=True)]
            cache.backward(torch.stack(parts).sum())
        if self._group is not None:
            self._add_up_gradients(self._group)
        self._optimizer.step()
        self._schedule.step()
        self.losses.append(loss.item())
        self.loss_seconds += after - before
        self.seconds += _now(images.device) - start

    def _outputs(
        self, cache: GradientCache | None, images: Tensor, words: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of the loss."""
        if cache is None:
            return self.model(images, words)
        x = cache(self.model.embed_images, images)
        y = cache(self.model.embed_names, words)
        return x, y, self.model.scale(), self.model.bias

    def _add_up_gradients(self, group: dist.ProcessGroup) -> None:
        """Each rank has those of its own rows."""
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad, group=group)

    @torch.no_grad()
    def retrieve(self, glyphs: Glyphs) -> Tensor:
        """[n, 10]: the names nearest to each image in the unseen face, best first."""
        names = self.model.embed_names(glyphs.words)
        nearest = [
            (self.model.embed_images(images) @ names.T).topk(RETRIEVED).indices
            for images in glyphs.unseen.split(QUERIES_AT_ONCE)
        ]
        return torch.cat(nearest)


def recall(nearest: Tensor, k: int) -> float:
    """The share of rows whose own index is among the first k."""
    own = torch.arange(len(nearest), device=nearest.device)[:, None]
    return (nearest[:, :k] == own).any(1).float().mean().item()


def _rate(step: int, steps: int) -> float:
    """Warm-up, then a cosine to zero."""
    return min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
