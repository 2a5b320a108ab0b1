"""What is asked of torch.distributed: plain tensors in, plain tensors out, nothing differentiable.

Rows may be spread unevenly over the ranks. torch's own gathers take equal shards only, and given
others return memory that nobody wrote: so shards are padded to the largest and cut again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def before_a_group() -> None:
    """What a process that ends by itself calls before it makes a group.

    The functions of torch.distributed.nn take the group of all processes for a default. Imported
    after the group was made, as torch._dynamo does, they hold it to the end of the process: gloo's
    threads then live on, and one that still frees a tensor while Python shuts down aborts it.
    """
    import torch.distributed.nn.functional  # noqa: F401


class Collectives:
    """One process group as its members use it; ranks are counted within the group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    @property
    def host_device(self) -> torch.device:
        """Where numbers for the host are exchanged: on a GPU only if the group has nothing else."""
        backend = str(dist.get_backend(self.group))
        if "nccl" in backend and "gloo" not in backend:
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def gather(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """The rows of all ranks, rank by rank; ``sizes``: how many each has."""
        rows = rows.contiguous()
        if self.size == 1:
            return rows
        largest = max(sizes)
        if largest == 0:
            return rows
        even = min(sizes) == largest
        mine = rows if even else _padded(rows, largest)
        out = rows.new_empty((self.size * largest, *rows.shape[1:]))
        _all_gather(out, mine, self.group)
        if even:
            return out
        parts = out.view(self.size, largest, *rows.shape[1:])
        return torch.cat([part[:own] for part, own in zip(parts, sizes, strict=True)])

    def scatter_sum(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """This rank's part of the sum over ranks of ``rows``, of which each has all."""
        rows = rows.contiguous()
        largest = max(sizes)
        if self.size == 1 or largest == 0:
            return rows
        if min(sizes) != largest:
            rows = torch.cat([_padded(part, largest) for part in rows.split(list(sizes))])
        out = rows.new_empty((largest, *rows.shape[1:]))
        _reduce_scatter(out, rows, self.group)
        return out[: sizes[self.rank]]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        """The largest over ranks, entry by entry."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def texts(self, own: str) -> list[str]:
        """A text of each rank."""
        found: list[object] = [None] * self.size
        dist.all_gather_object(found, own, group=self.group)
        return [str(text) for text in found]

    def pass_on(self, send: Tensor, room: Tensor) -> list[dist.Work]:
        """Start to send to the next rank, and to receive into ``room`` from the one before.

        Neither may be touched before all works are waited for.
        """
        following = dist.get_global_rank(self.group, (self.rank + 1) % self.size)
        before = dist.get_global_rank(self.group, (self.rank - 1) % self.size)
        transfers = [
            dist.P2POp(start, tensor, peer, self.group)
            for start, tensor, peer in ((dist.isend, send, following), (dist.irecv, room, before))
            # Both ends know the sizes, and know that nothing is sent.
            if tensor.numel()
        ]
        return dist.batch_isend_irecv(transfers) if transfers else []

    def _reduced(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        values = values.clone(memory_format=torch.contiguous_format)
        if self.size > 1 and values.numel():
            dist.all_reduce(values, operation, self.group)
        return values


def _padded(rows: Tensor, count: int) -> Tensor:
    missing = rows.new_zeros((count - rows.shape[0], *rows.shape[1:]))
    return torch.cat([rows, missing])


# torch 2.13 has new names for two collectives and warns about the old ones.
def _all_gather(out: Tensor, own: Tensor, group: dist.ProcessGroup) -> None:
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(out, own, group=group)


def _reduce_scatter(out: Tensor, rows: Tensor, group: dist.ProcessGroup) -> None:
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    scatter(out, rows, group=group)
