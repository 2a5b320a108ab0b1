"""Who shards a loss gets one clear error; who only watches gets its value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import contrastile.functional as losses
import pytest
import torch
import torch.distributed as dist
from cases import LOSSES
from contrastile import InputError
from contrastile.testing import AllocationSpy
from everything import Function, everything, of_one, tensors
from helpers import Arguments
from rejections import minimal
from torch import Tensor
from torch.autograd import forward_ad
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.testing._internal.logging_tensor import LoggingTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

each_loss = pytest.mark.parametrize("loss", LOSSES)
pytestmark = pytest.mark.filterwarnings("ignore")


# Sharded tensors.


@pytest.fixture(params=[0, 1], ids=["rank 0", "rank 1"])
def rank(request: pytest.FixtureRequest) -> Iterator[int]:
    """This process as one of two."""
    dist.init_process_group("fake", rank=request.param, world_size=2, store=FakeStore())
    yield request.param
    dist.destroy_process_group()


def test_sharded_tensors_fail_on_every_rank(rank: int) -> None:
    """A scale in two parts of which one is empty, and replicated arguments of every loss."""
    mesh = init_device_mesh("cpu", (2,))
    part = torch.full((1 - rank,), 0.5)
    scale = DTensor.from_local(part, mesh, [Shard(0)], shape=torch.Size([1]), stride=(1,))
    refused = "is a DTensor, of which each rank has a part; pass {0}.full_tensor()"
    for loss in LOSSES:
        given = everything(loss)
        arguments = {
            n: DTensor.from_local(t, mesh, [Replicate()]) for n, t in tensors(given).items()
        }
        for name, value in {**arguments, "temperature": scale}.items():
            with pytest.raises(
                InputError, match=re.escape(f"{loss}: {name} {refused.format(name)}")
            ):
                getattr(losses, loss)(**{**given, name: value})


# Who only watches.


class Watching(TorchFunctionMode):
    """Sees every function of torch and changes none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Dispatching(TorchDispatchMode):
    """Sees every operator and changes none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


WATCHERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "allocations": AllocationSpy,
    "flops": lambda: FlopCounterMode(display=False),
    "functions": Watching,
    "operators": Dispatching,
    "log": LoggingTensorMode,
    "profiler": torch.profiler.profile,
    "device": lambda: torch.device("cpu"),
    "other device": lambda: torch.device("meta"),
    "anomalies": torch.autograd.detect_anomaly,
    "saved on the CPU": torch.autograd.graph.save_on_cpu,
    "autocast": lambda: torch.autocast("cpu"),
    "dual level": forward_ad.dual_level,
}


def results(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    loss = function(x)
    loss.backward()
    assert x.grad is not None
    return loss, x.grad


@pytest.mark.parametrize("watcher", WATCHERS)
@each_loss
def test_watchers_change_nothing(loss: str, watcher: str) -> None:
    function, x = of_one(loss)
    expected = results(function, x)
    with WATCHERS[watcher]():
        got = results(function, x)
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours, theirs)


@each_loss
def test_checkpoints_change_nothing(loss: str) -> None:
    function, x = of_one(loss)
    expected = results(function, x)
    for reentrant in (False, True):
        got = results(partial(checkpoint, function, use_reentrant=reentrant), x)
        assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))


@each_loss
def test_inference_mode_changes_nothing(loss: str) -> None:
    function, x = of_one(loss)
    expected = function(x)
    with torch.inference_mode():
        assert torch.equal(function(x.clone()), expected)


class MakesMeta(TorchFunctionMode):
    """Factories make tensors without memory, whatever device they are asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return made.to("meta") if func in (torch.empty, torch.zeros) else made


def test_modes_that_make_no_memory() -> None:
    given: Arguments = minimal("clip_loss")
    message = "^clip_loss: under a mode of this thread torch.empty is on the meta device"
    with MakesMeta(), pytest.raises(RuntimeError, match=message):
        losses.clip_loss(**given)
