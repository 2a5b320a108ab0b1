"""What the ranks of a group really do in a step: their collectives, and what they allocate."""

from __future__ import annotations

from typing import Any
from unittest import mock

import contrastile
import torch
import torch.distributed as dist
from contrastile.parallel.collectives import Collectives
from contrastile.planning import Shape
from contrastile.testing import AllocationSpy
from torch import Tensor

METHODS = ("gather", "scatter_sum", "sum", "largest", "pass_on")
# A method of Collectives, and the bytes that were handed to it.
Call = tuple[str, int]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def collectives_of(shape: Shape, exchange: str) -> list[Call] | None:
    """The calls of this rank in a step; None of one that takes no part."""
    calls: list[Call] = []

    def recording(name: str) -> Any:
        method = getattr(Collectives, name)

        def record(self: Collectives, tensor: Tensor, *rest: Any) -> Any:
            calls.append((name, tensor.nbytes))
            return method(self, tensor, *rest)

        return mock.patch.object(Collectives, name, record)

    group = dist.new_group(list(range(shape.world)))
    rank = dist.get_rank()
    if rank >= shape.world:
        return None
    inputs = inputs_of(shape, rank)
    patches = [recording(name) for name in METHODS]
    for patch in patches:
        patch.start()
    step(shape, inputs, 2**20, group=group, exchange=exchange)
    mock.patch.stopall()
    return calls


def peak_of(shape: Shape, exchange: str, workspace: int) -> int:
    """Bytes that a step takes on this rank at its peak, beside the embeddings."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if world > 1 else 0
    group = {"group": dist.new_group(list(range(shape.world)))} if world > 1 else {}
    if rank >= shape.world:
        return 0
    inputs = inputs_of(shape, rank)
    with AllocationSpy() as spy:
        step(shape, inputs, workspace, exchange=exchange, **group)
    return spy.peak_bytes


def inputs_of(shape: Shape, rank: int) -> list[Tensor]:
    """Both towers' embeddings and a scale."""
    torch.manual_seed(rank)
    rows = torch.randn(2, shape.rows[rank], shape.size)
    both = torch.nn.functional.normalize(rows, dim=2).to(DTYPES[shape.dtype])
    return [*(own.clone().requires_grad_() for own in both), torch.tensor(10.0, requires_grad=True)]


def step(shape: Shape, inputs: list[Tensor], workspace: int, **options: Any) -> None:
    x, y, scale = inputs
    if shape.loss == "siglip_loss":
        options["logit_bias"] = torch.tensor(-10.0, requires_grad=True)
    loss = getattr(contrastile, shape.loss)
    loss(x, y, logit_scale=scale, workspace=workspace, **options).backward()
