"""What a loss allocates at a batch size, forward and backward."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..testing import AllocationSpy
from .model import SIZE
from .objectives import LossFunction

LARGEST = 8192


def batch_sizes(batch: int) -> list[int]:
    """A quarter of the batch size to eight times it, within reason."""
    sizes = {batch // 4, batch // 2, batch, 2 * batch, 4 * batch, 8 * batch}
    return sorted(size for size in sizes if 2 <= size <= max(batch, LARGEST))


def peak_bytes(loss: LossFunction, batch: int, device: torch.device) -> int:
    """Most bytes alive at once on top of the inputs in one forward and backward."""
    generator = torch.Generator().manual_seed(batch)
    x, y = (
        F.normalize(torch.randn(batch, SIZE, generator=generator), dim=1).to(device)
        for _ in range(2)
    )
    scale, bias = torch.tensor(10.0, device=device), torch.tensor(-10.0, device=device)
    leaves = [tensor.requires_grad_() for tensor in (x, y, scale, bias)]
    with AllocationSpy() as spy:
        loss(*leaves).backward()
    return spy.peak_bytes
