"""What a section is given."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from contrastile import clip_loss
from torch import Tensor
from torch.nn.functional import normalize

from ..timing import is_gpu
from .cells import Cells, LostDevice, attempt, failed
from .record import Row, Sink
from .recorder import Recorder

Loss = Callable[..., Tensor]
SCALE = 1 / 0.07


@dataclass(frozen=True)
class Settings:
    """
    Args:
        device: where to compute; sections that make sense on a GPU alone skip other devices.
        backend: of contrastile.
        quick: only the cells that matter most; those before them are not done again later.
        wheels: a folder of other libraries' wheels, for the sections ``peers`` and ``build``.
        extension: a folder that the section ``build`` makes the native extension in.
        carried: the native extension, built elsewhere.
        seconds: after which a section is to start nothing new.
        row: takes a row of results as soon as it is there.
        begun: takes the name of a cell before it is done.
        cells: what is known of those of this section.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cuda", 0))
    backend: str = "triton"
    quick: bool = False
    wheels: Path | None = None
    extension: Path | None = None
    carried: Path | None = None
    seconds: float = float("inf")
    row: Sink = lambda row: None
    begun: Callable[[str], None] = lambda name: None
    cells: Cells = field(default_factory=Cells)
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until nothing new is to be started."""
        return self.seconds - (time.monotonic() - self.start)

    @property
    def on_gpu(self) -> bool:
        return is_gpu(self.device)

    @property
    def compiles(self) -> bool:
        """Whether a kernel is compiled when it is first wanted."""
        return self.backend == "triton"

    def loss(self, function: Loss = clip_loss) -> Loss:
        """A loss by the backend under test."""
        return partial(function, backend=self.backend)

    def wants(self, name: str, later: bool = False) -> bool:
        """Whether a cell is to be done now; ``later``: not in a quick pass."""
        if name in self.cells.done:
            return False
        if self.quick and later:
            self.cells.later += 1
        elif self.left <= 0:
            self.cells.left += 1
        else:
            return True
        return False

    def cell(self, name: str, compute: Callable[[], Row], later: bool = False) -> Row | None:
        """The row of a cell: as it is known, or done now, with an error in it if that fails.
        None if it is left for later.

        Raises:
            LostDevice: no cell can be done in this process any more.
        """
        if self.wants(name, later):
            self.begun(name)
            row = attempt(compute)
            healthy = recovers(self.device)
            if not healthy and "error" not in row:
                row = failed("the device does not answer any more")
            self.cells.settle(name, row, self.row)
            if not healthy:
                raise LostDevice(f"{name}: {row['error']}")
        return self.cells.done.get(name)


@dataclass(frozen=True)
class Pair:
    """Two sides and a scale, all of them leaves."""

    x: Tensor
    y: Tensor
    scale: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.x, self.y, self.scale


def pair(n: int, d: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Pair:
    """Unit rows, drawn on the device; row i of both sides is half alike. The scale is fp32."""
    random = torch.Generator(device).manual_seed(seed)
    x, noise = (torch.randn(n, d, generator=random, device=device) for _ in range(2))
    y = normalize(x + noise, dim=1).to(dtype)
    x = normalize(x, dim=1).to(dtype)
    scale = torch.tensor(SCALE, device=device)
    return Pair(x.requires_grad_(), y.requires_grad_(), scale.requires_grad_())


def step(loss: Loss, inputs: Pair, **options: object) -> tuple[Tensor, ...]:
    """The loss and the gradients of both sides and of the scale."""
    value = loss(inputs.x, inputs.y, logit_scale=inputs.scale, **options)
    return (value.detach(), *torch.autograd.grad(value, inputs.leaves))


def synchronize(device: torch.device) -> None:
    """Waits for the device; nothing to wait for on the CPU."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def recovers(device: torch.device) -> bool:
    """Whether the device still works, its memory given back."""
    if not is_gpu(device):
        return True
    gc.collect()
    with Recorder() as recorder:
        synchronize(device)
        torch.cuda.empty_cache()
    return recorder.error is None


def equal(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    """Whether all tensors are the same, bit for bit; no NaN is."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def difference(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> float:
    """The largest difference of two tensors, over the largest entry of the second; NaN counts."""
    errors = []
    for a, b in zip(first, second, strict=True):
        size = b.double().abs().max().clamp(min=1e-30)
        errors.append(float((a.double() - b.double()).abs().max() / size))
    return float("nan") if any(math.isnan(e) for e in errors) else max(errors)
