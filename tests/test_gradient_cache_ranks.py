"""gradient_cache on two ranks: DDP reduces once, FSDP2 in the last pass, and both are exact."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from contrastile import clip_loss
from contrastile.training import gradient_cache
from processes import Processes
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from towers import SUB_BATCH, assert_same, linear, rows, taken

WORLD, STEPS = 2, 2
Pair = tuple[Tensor, Tensor]


class Clip(nn.Module):
    """Two towers and a scale; a tower alone, or both at once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = linear(), linear(6)
        self.scale = nn.Parameter(torch.full((1,), 2.0, dtype=torch.float64))

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> Any:
        if text is None:
            return self.image(image)
        if image is None:
            return self.text(text)
        return self.image(image), self.text(text)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return clip_loss(x, y, logit_scale=self.scale)


def batch_of(rank: int, uneven: bool = True) -> Pair:
    """The pairs of a rank; ``uneven`` ones are more sub-batches on the second."""
    torch.manual_seed(100 + rank)
    count = 10 + 9 * rank * uneven
    return rows(count), rows(count, 6)


def one_process(uneven: bool = True, scale: bool = True) -> list[Tensor]:
    """The mean over ranks of their losses' gradients."""
    model = Clip()
    model.scale.requires_grad_(scale)
    for rank in range(WORLD):
        image, text = batch_of(rank, uneven)
        (model.loss(model.image(image), model.text(text)) / WORLD).backward()
    return [each.grad for each in model.parameters() if each.grad is not None]


def towers_apart(model: nn.Module, image: Tensor, text: Tensor) -> list[Any]:
    return [(lambda x: model(image=x), image), (lambda y: model(text=y), text)]


def towers_at_once(model: nn.Module, image: Tensor, text: Tensor) -> list[Any]:
    return [(model, (image, text))]


def check_ddp(rank: int, towers: Callable[..., list[Any]], **options: Any) -> None:
    """The gradient of one process, by one reduction a step."""
    model, reductions = Clip(), []
    replica = DistributedDataParallel(model, **options)

    # DDP reads annotations, and does not know those that are text.
    def counted(group, bucket):  # type: ignore[no-untyped-def]
        reductions.append(bucket.index())
        return allreduce_hook(group, bucket)

    replica.register_comm_hook(None, counted)
    # A static graph shows its parameters in one pass more, before the first.
    first = 2 if options.get("static_graph") else 1
    for step in range(STEPS):
        model.zero_grad()
        reductions.clear()
        gradient_cache(model.loss, towers(replica, *batch_of(rank)), sub_batch=SUB_BATCH)
        assert len(reductions) == (1 if step else first), options
        assert_same([each.grad for each in model.parameters()], one_process())
    if first == 1:
        check_accumulation(rank, replica, towers, reductions)
    assert replica.module is model and replica.require_backward_grad_sync


def check_accumulation(
    rank: int, replica: Any, towers: Callable[..., list[Any]], reductions: list[int]
) -> None:
    """In a block of no_sync gradients stay on their rank; the next call reduces all of them."""
    model = replica.module
    call = partial(gradient_cache, model.loss, towers(replica, *batch_of(rank)))
    model.zero_grad()
    reductions.clear()
    with replica.no_sync():
        call(sub_batch=SUB_BATCH)
    assert not reductions
    call(sub_batch=3)
    assert len(reductions) == 1
    assert_same([each.grad for each in model.parameters()], [2 * each for each in one_process()])


def check_inner_methods(rank: int) -> None:
    """Encoders that are methods of the module inside DDP, which is then named."""
    model = Clip()
    replica = DistributedDataParallel(model)
    image, text = batch_of(rank)
    towers = [(model.image, image), (model.text, text)]
    gradient_cache(model.loss, towers, sub_batch=SUB_BATCH, modules=[replica])
    assert_same([each.grad for each in model.parameters()], one_process())


def check_group(rank: int, last: int | None) -> None:
    """A loss over all rows of all ranks, ``last`` of the last one's: as of one process."""
    model, loss = Clip(), partial(clip_loss, temperature=0.5)
    model.scale.requires_grad_(False)
    batches = [batch_of(0), tuple(each[:last] for each in batch_of(1))]
    image, text = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = loss(model.image(image), model.text(text))
    expected.backward()
    trained = [*model.image.parameters(), *model.text.parameters()]
    gradients = taken(*trained)
    towers = towers_apart(DistributedDataParallel(model), *batches[rank])
    found = gradient_cache(loss, towers, sub_batch=SUB_BATCH, group=dist.group.WORLD)
    assert_same([found], [expected.detach()])
    assert_same(taken(*trained), gradients)


class Reductions(TorchDispatchMode):
    """How often gradients are reduced and scattered in a block."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "reduce_scatter" in str(func)
        return func(*args, **(kwargs or {}))


def check_fsdp(rank: int, towers: Callable[..., list[Any]], reductions: int) -> None:
    model = Clip()
    model.scale.requires_grad_(False)
    mesh = init_device_mesh("cpu", (WORLD,))
    for module in (model.image, model.text, model):
        fully_shard(module, mesh=mesh)
    # Every forward pass of FSDP gathers parameters: ranks have as many sub-batches as one another.
    pairs = batch_of(rank, uneven=False)
    loss = partial(clip_loss, temperature=0.5)
    for _ in range(STEPS):
        model.zero_grad()
        with Reductions() as counted:
            gradient_cache(loss, towers(model, *pairs), sub_batch=4)
        assert counted.count == reductions
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        assert_same([each.full_tensor() for each in gradients], one_process(False, scale=False))


def compare() -> None:
    rank = dist.get_rank()
    for towers in (towers_apart, towers_at_once):
        check_ddp(rank, towers)
    for option in ("find_unused_parameters", "static_graph", "gradient_as_bucket_view"):
        check_ddp(rank, towers_apart, **{option: True})
    check_inner_methods(rank)
    for last in (None, 0):
        check_group(rank, last)
    check_fsdp(rank, towers_apart, reductions=2)
    check_fsdp(rank, towers_at_once, reductions=2)


def test_gradients_of_two_ranks_are_those_of_one_process() -> None:
    processes = Processes(WORLD)
    try:
        processes.run(compare)
    finally:
        processes.stop()
