"""Short trainings in open_clip's own loop, with its losses or ours, by one process or several."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from clients import describe_torchvision
from torch import Tensor, nn

BATCH, BATCHES, TOKENS, WORDS, PIXELS = 24, 4, 8, 50, 16


@dataclass(frozen=True)
class Setting:
    """What open_clip's command line would say."""

    precision: str = "fp32"
    accum_freq: int = 1
    siglip: bool = False
    local_loss: bool = False
    gather_with_grad: bool = False
    dist_impl: str | None = None

    def __str__(self) -> str:
        modes = {"local": self.local_loss, "grad": self.gather_with_grad, "siglip": self.siglip}
        words = [self.precision, str(self.accum_freq), *(m for m, on in modes.items() if on)]
        return "-".join([*words, *([self.dist_impl] if self.dist_impl else [])])

    def arguments(self, rank: int, world_size: int) -> SimpleNamespace:
        return SimpleNamespace(
            **{name: getattr(self, name) for name in ("precision", "accum_freq", "siglip")},
            local_loss=self.local_loss,
            gather_with_grad=self.gather_with_grad,
            loss_dist_impl=self.dist_impl,
            rank=rank,
            world_size=world_size,
            batch_size=BATCH,
            model="ViT-tiny",
            device="cpu",
            horovod=False,
            distill=False,
            skip_scheduler=True,
            grad_clip_norm=None,
            log_every_n_steps=1,
            wandb=False,
        )


@dataclass
class Run:
    """What a training showed: each call's loss and its fp64 value, the parameters at the end."""

    losses: list[float] = field(default_factory=list)
    exact: list[float] = field(default_factory=list)
    parameters: dict[str, Tensor] = field(default_factory=dict)

    def step(self, start: dict[str, Tensor]) -> Tensor:
        """All that the training added to the parameters."""
        return torch.cat([(self.parameters[n] - start[n]).flatten() for n in sorted(start)])


class Recorder(nn.Module):
    """A loss, and what it returned."""

    def __init__(self, loss: nn.Module, run: Run) -> None:
        super().__init__()
        self.loss, self.run = loss, run

    def forward(self, **given: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.loss(**given)
        self.run.losses.append(found["contrastive_loss"].item())
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            names = ("image_features", "text_features", "logit_scale", "logit_bias")
            x, y, scale, bias = (given.get(name, torch.zeros(())).double() for name in names)
            logits, n = scale * x @ y.T + bias, len(x)
            cross_entropy, own = nn.functional.cross_entropy, torch.arange(n)
            exact = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
            if "logit_bias" in given:
                sign = 2 * torch.eye(n, dtype=logits.dtype) - 1
                exact = -nn.functional.logsigmoid(sign * logits).sum() / n
            self.run.exact.append(exact.item())
        return found


class Batches:
    """open_clip's DataInfo and its loader in one: seeded pairs, other ones for each rank."""

    num_batches, num_samples = BATCHES, BATCHES * BATCH

    def __init__(self, rank: int) -> None:
        self.rank, self.dataloader = rank, self

    def set_epoch(self, epoch: int) -> None:
        pass

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1 + self.rank)
        for _ in range(BATCHES):
            images = torch.randn(BATCH, 3, PIXELS, PIXELS, generator=generator)
            yield images, torch.randint(1, WORDS, (BATCH, TOKENS), generator=generator)


def tiny_clip(siglip: bool) -> nn.Module:
    describe_torchvision()
    import open_clip

    torch.manual_seed(0)
    start = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0} if siglip else {}
    model: nn.Module = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={
            **{"image_size": PIXELS, "patch_size": 8, "layers": 1, "width": 32, "head_width": 16}
        },
        text_cfg={
            **{"context_length": TOKENS, "vocab_size": WORDS, "layers": 1, "width": 32, "heads": 2}
        },
        output_dict=True,
        **start,
    )
    return model


def train(ours: bool, setting: Setting) -> Run:
    """One epoch by open_clip_train.train.train_one_epoch, under DDP if there are ranks.

    By plain gradient descent: Adam would hide a factor of the gradient, and blow up its roundings.
    """
    describe_torchvision()
    import open_clip
    from contrastile.integrations import open_clip as integration
    from open_clip_train.train import train_one_epoch

    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    arguments, run = setting.arguments(rank, world_size), Run()
    loss = (integration if ours else open_clip).create_loss(arguments)
    model = tiny_clip(setting.siglip)
    wrapped = nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = {"train": Batches(rank)}
    train_one_epoch(
        wrapped, data, Recorder(loss, run), 0, optimizer, None, None, None, arguments, None
    )
    run.parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    return run
