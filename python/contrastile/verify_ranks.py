"""Losses over the ranks of a group, and other libraries' gathers, against one process.

``contrastile verify --world 4`` starts processes on this machine that have some of the rows each.
The truth is the formula of all rows in fp64, which every process computes for itself.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from .losses.inputs import Inputs
from .losses.registry import LOSSES, LossEntry
from .parallel import EXCHANGES
from .parallel.collectives import Collectives, before_a_group
from .parallel.shares import Share
from .problem import InputError
from .problem.advice import unadvised
from .verify import BOUNDS, DTYPES, Evaluated, errors_of, evaluate
from .verify_libraries import Mode, modes

ROWS, SIZE = 96, 40
MOST = 64


@dataclass(frozen=True)
class Ranks:
    """This process among the others."""

    collectives: Collectives
    device: torch.device

    @property
    def world(self) -> int:
        return self.collectives.size

    def shard(self, inputs: Inputs, share: Share) -> Inputs:
        """This rank's rows, leaves of their own."""

        def leaf(value: Any, rows: slice | None) -> Any:
            if not isinstance(value, Tensor):
                return value
            own = value.detach() if rows is None else value.detach()[rows]
            return own.to(self.device, copy=True).requires_grad_(value.requires_grad)

        return replace(
            inputs,
            embeddings=tuple([leaf(each, share.own) for each in inputs.embeddings]),
            guides=tuple([leaf(each, share.own) for each in inputs.guides]),
            labels=tuple([leaf(each, share.own) for each in inputs.labels]),
            scale=leaf(inputs.scale, None),
            bias=leaf(inputs.bias, None),
        )

    def whole(self, found: Evaluated, share: Share) -> Evaluated:
        """The value, and the gradients of all rows as an average over ranks leaves them."""
        value, gradients = found
        gathered = {}
        for name, own in gradients.items():
            own = own.double() / self.world
            if name.startswith("embedding"):
                gathered[name] = self.collectives.gather(own, share.sizes).cpu()
            else:
                gathered[name] = self.collectives.sum(own).cpu()
        return value.cpu(), gathered

    def worst(self, errors: dict[str, float]) -> dict[str, float]:
        """The largest error of any rank; NaN counts as infinite."""
        numbers = torch.tensor(list(errors.values()), dtype=torch.float64, device=self.device)
        numbers = self.collectives.largest(torch.nan_to_num(numbers, nan=torch.inf))
        return dict(zip(errors, numbers.tolist(), strict=True))


def uneven(total: int, world: int) -> Share:
    """Shards of different sizes, one of them empty where there are more than two."""
    sizes = [total // world] * world
    sizes[0] += total % world
    if world > 1:
        sizes[0] += 1
        sizes[-1] -= 1
    if world > 2:
        sizes[0] += sizes[1]
        sizes[1] = 0
    return Share(tuple(sizes), 0)


def drawn(entry: LossEntry, dtype: torch.dtype) -> Inputs:
    """The rows of all ranks, the same on each."""
    rng = torch.Generator().manual_seed(0)
    return entry.make_inputs(ROWS * entry.views, SIZE, dtype, generator=rng, learned=True)


def check(ranks: Ranks, entry: LossEntry, dtype: str, exchange: str) -> tuple[str, bool]:
    """One of our losses: a line of the table, and whether it is right."""
    inputs = drawn(entry, DTYPES[dtype])
    share = uneven(ROWS, ranks.world)._replace(rank=ranks.collectives.rank)
    own = ranks.shard(inputs, share)
    with unadvised():
        found = evaluate(
            lambda given: entry.compute(given, group=ranks.collectives.group, exchange=exchange),
            own,
        )
    errors = errors_of(ranks.whole(found, share), evaluate(entry.formula, inputs.double()))
    errors = ranks.worst(errors)
    right = all(error <= BOUNDS[dtype] for error in errors.values())
    loss, *gradients = errors.values()
    verdict = "ok" if right else "WRONG"
    name = f"contrastile {entry.name}"
    return f"  {name:32}{dtype:6}{exchange:26}{loss:9.1e}{max(gradients):11.1e}  {verdict}", right


def compare(ranks: Ranks, mode: Mode) -> str:
    """A library's own way to gather: a line of the table."""
    entry = LOSSES[mode.loss]
    inputs = drawn(entry, torch.float32)
    share = Share((ROWS // ranks.world,) * ranks.world, ranks.collectives.rank)
    truth = evaluate(entry.formula, inputs.double())
    found = ranks.whole(evaluate(mode.compute, ranks.shard(inputs, share)), share)
    errors = ranks.worst(errors_of(found, truth))
    loss = errors["loss"]
    name = next(iter(found[1]))
    length = float(found[1][name].norm() / truth[1][name].norm())
    angle = float(torch.cosine_similarity(found[1][name].flatten(), truth[1][name].flatten(), 0))
    right = errors[f"gradient of {name}"] <= BOUNDS["fp32"]
    verdict = "ok" if right else f"{length:.3f} of its length, cosine {angle:.3f}"
    return (
        f"  {mode.library:32}{'fp32':6}{mode.name:26}{loss:9.1e}"
        f"{errors[f'gradient of {name}']:11.1e}  {verdict}"
    )


def run(world: int, device: str | None = None) -> int:
    """Prints a table of all losses over ``world`` ranks, and of the libraries that are installed.

    Returns:
        1 if one of our losses is wrong, else 0.

    Raises:
        InputError: no such number of ranks or device here.
    """
    if not 1 <= world <= MOST or ROWS % world:
        raise InputError(f"verify: --world must divide {ROWS}, up to {MOST}, got {world}")
    kind = torch.device(device or "cpu").type
    if kind == "cuda" and torch.cuda.device_count() < world:
        raise InputError(
            f"verify: --world {world} with a GPU each needs {world} GPUs, "
            f"got {torch.cuda.device_count()}; --device cpu needs none"
        )
    with tempfile.TemporaryDirectory() as folder:
        meeting, verdict = Path(folder) / "store", Path(folder) / "wrong"
        spawn(_one_rank, (world, kind, str(meeting), str(verdict)), nprocs=world)
        return int(verdict.exists())


def _one_rank(rank: int, world: int, kind: str, meeting: str, verdict: str) -> None:
    """All cases, as one of the processes; the first prints."""
    device = torch.device("cuda", rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    before_a_group()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=world,
    )
    group = dist.group.WORLD
    assert group is not None
    ranks = Ranks(Collectives(group), device)

    def say(line: str) -> None:
        if rank == 0:
            print(line, flush=True)

    say(f"  {'loss':32}{'dtype':6}{'mode':26}{'loss off':>9}{'gradients':>11}")
    count = right = 0
    for entry in LOSSES.values():
        for dtype in DTYPES:
            for exchange in EXCHANGES[1:] if entry.passes else ("gather",):
                line, fine = check(ranks, entry, dtype, exchange)
                say(line)
                count, right = count + 1, right + fine
    others, reasons = modes(rank, world)
    for mode in others:
        say(compare(ranks, mode))
    for reason in reasons:
        say(f"  {reason}")
    say(f"{right} of {count} over {world} ranks agree with one process in fp64")
    if rank == 0 and right < count:
        Path(verdict).touch()
    dist.destroy_process_group()
