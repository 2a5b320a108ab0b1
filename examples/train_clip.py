"""Trains a small CLIP on made-up pairs, in one process or on many ranks.

    python examples/train_clip.py
    torchrun --standalone --nproc-per-node 2 examples/train_clip.py --batch 1024 --sub-batch 16

The batch is split over the ranks, and the loss is that of the whole batch: any number of ranks
trains the same model. With --sub-batch the encoders see that many pairs at a time, so that a batch
64 times as large takes hardly more memory; with --queue pairs of past batches are negatives too.
With --checkpoint training goes on where it was left.
"""

import argparse
import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Before a group is made: imported later, by DDP, it would hold the group; see main().
import torch.distributed.nn.functional
from contrastile import LogitScale, MemoryQueue, clip_loss
from contrastile.training import GradientCache
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

ITEMS, UNSEEN = 6000, 1000
PATCHES, PIXELS, WORDS, SIZE = 16, 16, 8, 32
# Bytes that scores may take: little, as for the encoders.
WORKSPACE = 2**20

Batch = tuple[Tensor, Tensor, Tensor]


class World:
    """Things, of which there are images (patches of pixels) and captions (numbers of words)."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.things = torch.randn(ITEMS, SIZE, generator=rng)
        self.look = torch.randn(SIZE, PATCHES * PIXELS, generator=rng) / SIZE**0.5
        self.speech = torch.randn(SIZE, WORDS * WORDS, generator=rng)

    def pairs(self, ids: Tensor, rng: torch.Generator) -> Batch:
        """Noisy images of things, their captions, and which things they are."""
        things = self.things[ids]
        seen = (things @ self.look).tanh()
        images = seen + 0.3 * torch.randn(seen.shape, generator=rng)
        # Each place in a caption has words of its own.
        words = (things @ self.speech).view(-1, WORDS, WORDS).argmax(2)
        return images.view(-1, PATCHES, PIXELS), words + WORDS * torch.arange(WORDS), ids

    def batch(self, step: int, size: int) -> Batch:
        """The batch of a step, the same however training came there."""
        rng = torch.Generator().manual_seed(step)
        return self.pairs(torch.randperm(ITEMS - UNSEEN, generator=rng)[:size], rng)

    def unseen(self) -> Batch:
        """Pairs to test on."""
        return self.pairs(torch.arange(ITEMS - UNSEEN, ITEMS), torch.Generator().manual_seed(0))


class Clip(nn.Module):
    """An encoder for images, one for captions, and the scale."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Linear(PIXELS, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, SIZE),
            nn.Flatten(),
            nn.Linear(PATCHES * SIZE, SIZE),
        )
        self.text = nn.Sequential(
            nn.Embedding(WORDS * WORDS, SIZE), nn.Flatten(), nn.Linear(WORDS * SIZE, SIZE)
        )
        self.scale = LogitScale()

    def forward(self, images: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        return normalize(self.image(images), dim=1), normalize(self.text(words), dim=1)


class Training:
    """A model, its optimizer, and what it remembers: all that a checkpoint has."""

    def __init__(self, options: argparse.Namespace, group: dist.ProcessGroup | None) -> None:
        torch.manual_seed(0)
        self.group, self.sub_batch, self.step = group, options.sub_batch, 0
        self.clip = Clip()
        self.model = self.clip if group is None else DistributedDataParallel(self.clip)
        self.optimizer = torch.optim.AdamW(self.clip.parameters(), lr=3e-3)
        # One queue a side, in half precision; the same on all ranks, so outside of DDP.
        self.queues = nn.ModuleList(
            MemoryQueue(options.queue, SIZE, ids=True, dtype=torch.float16)
            for _ in range(2 if options.queue else 0)
        )

    def train(self, batch: Batch) -> float:
        """One step on this rank's part of a batch; the loss is that of the whole."""
        images, words, ids = batch
        self.optimizer.zero_grad()
        if self.sub_batch is None:
            x, y = self.model(images, words)
            loss = self.loss(x, y, ids)
            loss.backward()
        else:
            with GradientCache(self.sub_batch) as cache:
                x, y = cache(self.model, (images, words))
                loss = self.loss(x, y, ids)
                cache.backward(loss)
        self.optimizer.step()
        for queue, rows in zip(self.queues, (x, y), strict=False):
            queue.enqueue(rows, ids, group=self.group)
        self.step += 1
        return loss.item()

    def loss(self, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        """Of the pairs of all ranks; a thing that was in a past batch is not its own negative."""
        memory = None
        if self.queues:
            of_x, of_y = self.queues
            memory = of_x.keys(), of_y.keys(), of_x.ids()
        scale = self.clip.scale()
        return clip_loss(
            x,
            y,
            ids=ids,
            memory=memory,
            logit_scale=scale,
            group=self.group,
            workspace=WORKSPACE,
        )

    def save(self, file: Path) -> None:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        torch.save({"step": self.step, **parts}, file)

    def load(self, file: Path) -> None:
        state = torch.load(file, weights_only=True)
        self.step = state["step"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"clip": self.clip, "optimizer": self.optimizer, "queues": self.queues}

    @torch.no_grad()
    def recall(self, batch: Batch) -> float:
        """The share of images whose nearest caption is their own."""
        x, y = self.clip(*batch[:2])
        return ((x @ y.T).argmax(1) == torch.arange(len(x))).float().mean().item()


def read(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains a small CLIP; see the file's first lines.")
    parser.add_argument("--steps", type=int, default=200, help="all in all (%(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="pairs, of all ranks (%(default)s)")
    parser.add_argument("--sub-batch", type=int, help="pairs that encoders see at once")
    parser.add_argument("--queue", type=int, default=0, help="pairs of past batches to remember")
    parser.add_argument("--checkpoint", type=Path, help="file to go on from, and to write")
    return parser.parse_args(argv)


def run(options: argparse.Namespace, group: dist.ProcessGroup | None) -> list[float]:
    """Returns the loss of each step."""
    rank, ranks = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    world, training = World(), Training(options, group)
    if options.checkpoint is not None and options.checkpoint.exists():
        training.load(options.checkpoint)
    losses = []
    while training.step < options.steps:
        whole = world.batch(training.step, options.batch)
        own = tuple(part.tensor_split(ranks)[rank] for part in whole)
        losses.append(training.train(own))
        if rank == 0:
            print(f"step {training.step:4d}  loss {losses[-1]:.6f}", flush=True)
    if rank == 0:
        if options.checkpoint is not None:
            training.save(options.checkpoint)
        print(f"{training.recall(world.unseen()):.0%} of {UNSEEN} unseen images find their caption")
    return losses


def main(argv: Sequence[str] | None = None) -> list[float]:
    """On as many ranks as torchrun started, or alone."""
    options = read(argv)
    if "WORLD_SIZE" not in os.environ:
        return run(options, None)
    dist.init_process_group("gloo")
    losses = run(options, dist.group.WORLD)
    dist.destroy_process_group()
    # DDP holds the group in a circle of references. Let it go, and its threads end with it: one
    # that still had a tensor to free while Python shuts down would abort the process.
    gc.collect()
    return losses


if __name__ == "__main__":
    main()
