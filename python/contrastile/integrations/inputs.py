"""What a library's training loop leaves to its loss: the precision of the products, the ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ..problem.checks import InputError


def as_multiplied(x: Tensor) -> Tensor:
    """``x`` as autocast would give it to the library's matrix product.

    The losses leave their inputs alone under autocast. The libraries' own multiply in half
    precision there, and who trains so expects that product's speed.
    """
    device = x.device.type
    if x.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return x.to(torch.get_autocast_dtype(device))
    return x


def world(caller: str, rank: int, world_size: int) -> dist.ProcessGroup:
    """The group of all processes, which must be the one that the library was told of.

    Raises:
        InputError: there is none, or it has another size or this process another rank in it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            f"{caller}: world_size is {world_size}, but there is no process group; call "
            "torch.distributed.init_process_group first, or leave world_size at 1"
        )
    if (rank, world_size) != (dist.get_rank(), dist.get_world_size()):
        raise InputError(
            f"{caller}: rank and world_size are {rank} and {world_size}, but this process is rank "
            f"{dist.get_rank()} of {dist.get_world_size()}"
        )
    group = dist.group.WORLD
    assert group is not None
    return group
