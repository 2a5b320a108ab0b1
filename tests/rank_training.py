"""Steps of a model with two towers over ranks, in all that training wraps around it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from contrastile import clip_loss
from rank_cases import close
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

FEATURES, SIZE = 6, 4
# Rows of each rank.
ROWS = (3, 7, 1, 4)
Batch = tuple[Tensor, Tensor]


class Towers(nn.Module):
    """Embeddings of both sides and the scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = (self.tower() for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor([1.2], dtype=torch.float64))

    @staticmethod
    def tower() -> nn.Sequential:
        layers = [nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, SIZE)]
        return nn.Sequential(*layers).double()

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.image(image), self.text(text), self.log_scale.exp()


def batch(rank: int, step: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(100 * step + rank)
    one, other = (
        torch.randn(ROWS[rank], FEATURES, generator=rng, dtype=torch.float64) for _ in range(2)
    )
    return one, other


def of_ranks(ranks: range | list[int], step: int = 0) -> Batch:
    images, texts = zip(*[batch(rank, step) for rank in ranks], strict=True)
    return torch.cat(images), torch.cat(texts)


def loss_of(model: nn.Module, pairs: Batch, **options: Any) -> Tensor:
    x, y, scale = model(*pairs)
    found: Tensor = clip_loss(x, y, logit_scale=scale, normalize=True, **options)
    return found


def gradients(model: nn.Module) -> list[Tensor | None]:
    return [None if own.grad is None else own.grad.clone() for own in model.parameters()]


def one_process(ranks: list[int], steps: int = 1) -> tuple[float, list[Tensor | None]]:
    model = Towers()
    for step in range(steps):
        loss = loss_of(model, of_ranks(ranks, step))
        loss.backward()
    return loss.item(), gradients(model)


def same(found: list[Tensor | None], wanted: list[Tensor | None]) -> None:
    assert len(found) == len(wanted)
    for place, (own, truth) in enumerate(zip(found, wanted, strict=True)):
        assert (own is None) == (truth is None)
        if own is not None and truth is not None:
            close(f"parameter {place}", own, truth)


def everybody() -> list[int]:
    return list(range(dist.get_world_size()))


def averaged(model: nn.Module) -> list[Tensor | None]:
    """As DDP makes them."""
    found = gradients(model)
    for own in found:
        if own is not None:
            dist.all_reduce(own)
            own /= dist.get_world_size()
    return found


def ddp(exchange: str) -> None:
    model = DistributedDataParallel(Towers())
    loss = loss_of(model, batch(dist.get_rank()), group=dist.group.WORLD, exchange=exchange)
    loss.backward()
    value, wanted = one_process(everybody())
    close("loss", loss.detach(), torch.tensor(value, dtype=torch.float64))
    same(gradients(model), wanted)


def accumulated() -> None:
    """Two micro-batches, reduced once."""
    model = DistributedDataParallel(Towers())
    with model.no_sync():
        loss_of(model, batch(dist.get_rank()), group=dist.group.WORLD).backward()
    loss_of(model, batch(dist.get_rank(), 1), group=dist.group.WORLD).backward()
    same(gradients(model), one_process(everybody(), 2)[1])


def fsdp() -> None:
    model = Towers()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for tower in (model.image, model.text):
        fully_shard(tower, mesh=mesh)
    fully_shard(model, mesh=mesh)
    loss_of(model, batch(dist.get_rank()), group=mesh).backward()
    found = [None if p.grad is None else p.grad.full_tensor() for p in model.parameters()]  # type: ignore[attr-defined]
    same(found, one_process(everybody())[1])


def mesh_dimension() -> None:
    """Each row of a 2 x 2 mesh is a group of its own."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("other", "dp"))
    model = Towers()
    loss = loss_of(model, batch(dist.get_rank()), group=mesh["dp"], grad_scale="sum")
    loss.backward()
    group = mesh["dp"].get_group()
    value, wanted = one_process([2 * (dist.get_rank() // 2) + k for k in range(2)])
    close("loss", loss.detach(), torch.tensor(value, dtype=torch.float64))
    found = gradients(model)
    for own in found:
        dist.all_reduce(own, group=group)
    same(found, wanted)


def compiled(what: str) -> None:
    """Model and loss at once, or the loss alone; a second batch is another number of rows."""
    model = Towers()
    call: Callable[..., Tensor] = partial(loss_of, group=dist.group.WORLD)
    fast = torch.compile(call, backend="aot_eager")
    if what == "loss":
        fast = torch.compile(partial(clip_loss, group=dist.group.WORLD), backend="aot_eager")
    for step in range(2):
        if what == "loss":
            x, y, scale = model(*batch(dist.get_rank(), step))
            loss = fast(x, y, logit_scale=scale, normalize=True)
        else:
            loss = fast(model, batch(dist.get_rank(), step))
        loss.backward()
    same(averaged(model), one_process(everybody(), 2)[1])


def checkpointed(what: str, reentrant: bool) -> None:
    """The towers are computed again in the backward pass, or the loss is."""
    model = Towers()
    again = partial(checkpoint, use_reentrant=reentrant)
    image, text = (own.requires_grad_() for own in batch(dist.get_rank()))
    call = partial(clip_loss, normalize=True, group=dist.group.WORLD)
    if what == "towers":
        x, y = again(model.image, image), again(model.text, text)
        loss = call(x, y, logit_scale=model.log_scale.exp())
    else:
        x, y, scale = model(image, text)
        loss = again(lambda a, b, s: call(a, b, logit_scale=s), x, y, scale)
    loss.backward()
    same(averaged(model), one_process(everybody())[1])


def retained(exchange: str) -> None:
    """Two backward passes through one graph add up."""
    model = Towers()
    options = {"group": dist.group.WORLD, "exchange": exchange}
    loss = loss_of(model, batch(dist.get_rank()), **options)
    loss.backward(retain_graph=True)
    loss.backward()
    same(averaged(model), [None if g is None else 2 * g for g in one_process(everybody())[1]])


def frozen(exchange: str) -> None:
    """No gradient for one tower and the scale, then none at all."""
    model = Towers()
    model.image.requires_grad_(False)
    model.log_scale.requires_grad_(False)
    options = {"group": dist.group.WORLD, "exchange": exchange}
    loss = loss_of(model, batch(dist.get_rank()), **options)
    loss.backward()
    value, whole = one_process(everybody())
    frozen = [id(own) for own in (*model.image.parameters(), model.log_scale)]
    wanted = [
        None if id(own) in frozen else grad
        for own, grad in zip(model.parameters(), whole, strict=True)
    ]
    same(averaged(model), wanted)
    with torch.no_grad():
        evaluated = loss_of(model, batch(dist.get_rank()), **options)
    assert not evaluated.requires_grad
    close("loss", evaluated, torch.tensor(value, dtype=torch.float64))
