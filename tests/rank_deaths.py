"""A rank that dies, or never comes, in the middle of a step: what the others do then."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
import torch.distributed as dist
from contrastile import clip_loss
from contrastile.parallel import stats

# The rank that is lost.
LOST = 1


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def step(moment: str, exchange: str) -> tuple[str, float]:
    """The error of a rank, and after how many seconds it came; the first step is a good one."""
    rows = dist.get_rank() + 2
    x, y = (torch.randn(rows, 4, requires_grad=True) for _ in range(2))

    def call() -> None:
        loss = clip_loss(x, y, temperature=0.5, exchange=exchange, group=dist.group.WORLD)
        loss.backward()

    call()
    dist.barrier()
    if dist.get_rank() == LOST:
        if moment == "absent":
            return "", 0.0
        # When keys have come, or the first shard of a ring is there and the next one on its way.
        setattr(stats, {"forward": "reduced_of", "backward": "gradients_of"}[moment], die)
    start = time.monotonic()
    try:
        call()
    except RuntimeError as error:
        return str(error), time.monotonic() - start
    raise AssertionError("no error")
