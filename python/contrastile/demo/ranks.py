"""The ranks of one gloo group on this machine: this process the first, others started for it."""

from __future__ import annotations

import gc
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from ..parallel.collectives import before_a_group

# What one waits for another: the first also trains the dense side.
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Rank:
    """One of ``count`` processes; of one alone nothing is sent."""

    number: int
    count: int

    @property
    def group(self) -> dist.ProcessGroup | None:
        """All of them."""
        return None if self.count == 1 else dist.group.WORLD

    def part(self, images: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's rows of a batch."""
        own_images, own_words = (
            rows.tensor_split(self.count)[self.number] for rows in (images, words)
        )
        return own_images, own_words

    def goes_on(self, decision: bool = True) -> bool:
        """What the first decides, on all ranks."""
        told = torch.tensor(decision)
        if self.group is not None:
            dist.broadcast(told, 0)
        return bool(told)


@contextmanager
def first_rank(count: int, follow: Callable[[Rank], None]) -> Iterator[Rank]:
    """In this block the others run ``follow``; they share this process's threads."""
    if count == 1:
        yield Rank(0, 1)
        return
    threads = torch.get_num_threads()
    each = max(1, threads // count)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        others = [
            context.Process(
                target=_join, args=(Rank(number, count), meeting, each, follow), daemon=True
            )
            for number in range(1, count)
        ]
        try:
            for other in others:
                other.start()
            yield _meet(Rank(0, count), meeting, each)
            for other in others:
                other.join()
        finally:
            for other in others:
                other.kill()
            torch.set_num_threads(threads)
            if dist.is_initialized():
                dist.destroy_process_group()


def _meet(rank: Rank, meeting: str, threads: int) -> Rank:
    torch.set_num_threads(threads)
    before_a_group()
    dist.init_process_group(
        "gloo",
        init_method=meeting,
        rank=rank.number,
        world_size=rank.count,
        timeout=PATIENCE,
    )
    return rank


def _join(rank: Rank, meeting: str, threads: int, follow: Callable[[Rank], None]) -> None:
    # Ctrl-C reaches all processes of a terminal; the first alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow(_meet(rank, meeting, threads))
    dist.destroy_process_group()
    # Nothing may hold the group when Python shuts down; see before_a_group.
    gc.collect()
