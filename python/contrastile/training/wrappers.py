"""The modules behind an encoder: what has to know that there are many passes and one step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# How far a module is looked for: a function, a method it calls, its object, a list in that.
DEPTH = 4
COLLECTIONS = (Mapping, list, tuple)
CALLS = (nn.Module, partial, MethodType, FunctionType, *COLLECTIONS)
# A collection of more is data, and no towers.
MANY = 100
# DDP modules with a static graph whose first backward pass is behind them: it reduces even under
# no_sync, and shows which parameters all later ones are to have.
_BEGUN: WeakSet[DistributedDataParallel] = WeakSet()


def modules_behind(encoder: Callable[..., Any]) -> list[nn.Module]:
    """All modules that ``encoder`` is, is a method of, has bound or names, and their children."""
    roots = dict.fromkeys(_roots(encoder, DEPTH))
    return list(dict.fromkeys(module for root in roots for module in root.modules()))


def _roots(thing: object, depth: int) -> Iterator[nn.Module]:
    if isinstance(thing, nn.Module):
        yield thing
    elif depth > 0:
        for part in _parts(thing):
            yield from _roots(part, depth - 1)


def _parts(thing: object) -> Iterable[object]:
    """What ``thing`` may call."""
    if isinstance(thing, partial):
        return (thing.func, *thing.args, *thing.keywords.values())
    if isinstance(thing, MethodType):
        return (thing.__self__, thing.__func__)
    if isinstance(thing, FunctionType):
        names = inspect.getclosurevars(thing)
        return (*names.nonlocals.values(), *names.globals.values(), *vars(thing).values())
    if isinstance(thing, type) or inspect.ismodule(thing):
        return ()
    held = thing if isinstance(thing, COLLECTIONS) else getattr(thing, "__dict__", {})
    if len(held) > MANY:
        return ()
    items = held.values() if isinstance(held, Mapping) else held
    return [each for each in items if isinstance(each, CALLS)]


def frozen(modules: Iterable[nn.Module]) -> bool:
    """Whether there are parameters, and none of them is trained."""
    wanted = [each.requires_grad for module in modules for each in module.parameters(recurse=False)]
    return bool(wanted) and not any(wanted)


def batch_norms(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those that normalise by the statistics of the batch they get."""
    return [each for each in modules if isinstance(each, BATCH_NORMS) and each.training]


@contextmanager
def statistics_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """In this block batch norms do not update their running statistics: they did once."""
    tracking = [each for each in batch_norms(modules) if each.track_running_stats]
    for module in tracking:
        module.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True  # type: ignore[assignment]


class Reduction:
    """Gradients of data-parallel modules meet once, however many backward passes make them.

    DDP adds up on its rank and reduces after the last pass (:meth:`finish`); FSDP2 reduces in the
    last pass of an encoder (:meth:`in_this_pass`).
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        replicas = [each for each in modules if isinstance(each, DistributedDataParallel)]
        # In a block of the user's own no_sync, gradients are to stay where they are.
        self._due = [each for each in replicas if each.require_backward_grad_sync]
        self._shards = _fsdp_modules(modules)
        self._quiet = ExitStack()

    def begin(self) -> None:
        """Before the first of all backward passes: what a static graph of DDP wants to see."""
        for replica in self._due:
            if replica.static_graph and replica not in _BEGUN:
                _reduce(replica)
                _BEGUN.add(replica)

    def __enter__(self) -> Reduction:
        for replica in self._due:
            self._quiet.enter_context(replica.no_sync())
        return self

    def __exit__(self, *error: object) -> None:
        self._quiet.close()
        self.in_this_pass(True)

    def in_this_pass(self, wanted: bool) -> None:
        """Whether FSDP2 reduces in the next backward pass."""
        for shard in self._shards:
            shard.set_requires_gradient_sync(wanted, recurse=False)

    def finish(self) -> None:
        """One reduction of what the ranks have added up, by DDP's own means."""
        for replica in self._due:
            _reduce(replica)


def _fsdp_modules(modules: list[nn.Module]) -> list[FSDPModule]:
    if not (dist.is_available() and dist.is_initialized()):
        return []
    # Half a second to import, and of use to nobody else.
    from torch.distributed.fsdp import FSDPModule

    return [each for each in modules if isinstance(each, FSDPModule)]


def _reduce(replica: DistributedDataParallel) -> None:
    """Let DDP reduce all ``.grad`` by a pass of its own, through a module that adds zeros to them.

    So it does not matter which parameters the last sub-batch used, in which of several towers a
    module ran, or whether a rank had more sub-batches than others: buckets, hooks, unused
    parameters and averages are DDP's as ever.
    """
    gained = [
        each
        for each in replica.parameters()
        if each.requires_grad and (each.grad is not None or replica.static_graph)
    ]
    if not gained:
        return
    module = replica.module
    replica.module = _Zero(gained)
    try:
        with torch.enable_grad():
            replica(torch.zeros((), device=gained[0].device)).backward()
    finally:
        replica.module = module


class _Zero(nn.Module):
    """The number 0, as a function of ``touched``."""

    def __init__(self, touched: list[nn.Parameter]) -> None:
        super().__init__()
        self._touched = tuple(touched)

    def forward(self, zero: Tensor) -> Tensor:
        return _ZeroOf.apply(zero, *self._touched)


class _ZeroOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, zero: Tensor, *touched: Tensor) -> Tensor:
        ctx.save_for_backward(*touched)
        return zero.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(each.new_zeros(()).expand(each.shape) for each in ctx.saved_tensors)
