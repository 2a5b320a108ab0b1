"""Bytes that a call holds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from contrastile.testing import AllocationSpy

from ..timing import is_gpu


def held_at_most(device: torch.device, run: Callable[[], object]) -> int:
    """Bytes held at most during ``run`` beyond those held before."""
    if not is_gpu(device):
        with AllocationSpy() as spy:
            run()
        return spy.peak_bytes
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
