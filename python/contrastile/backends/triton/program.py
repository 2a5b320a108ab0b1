"""What the launches of a problem depend on beside its tensors: found once, for all its steps."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch

from ...problem.spec import Sizes, Spec
from ..gpu.forms import Form
from ..gpu.scene import Scene
from .device import Device
from .encode import encode
from .launch import Launch, Launches, Purpose, launches, pick
from .operands import as_triton
from .precision import precision
from .start import Start

# Entries of a vector, and rows of an embedding, that one program of the small kernels takes.
LINE = 128
# Entries that one program takes at a time where it goes through whole vectors.
SWEEP = 1024


class Tiles(NamedTuple):
    """How a kernel over the tiles of a block is launched."""

    launch: Launch
    programs: int
    start: Start


class Program:
    """The kernels of a problem, as they are launched; see :func:`program_of`."""

    def __init__(
        self,
        spec: Spec,
        sizes: Sizes,
        forms: tuple[Form, ...],
        device: Device,
        operand_dtype: torch.dtype,
        given: bool,
    ) -> None:
        self.spec, self.sizes, self.forms, self.device = spec, sizes, forms, device
        self.operand_dtype, self.given = operand_dtype, given
        self.encoded = encode(spec.stats)
        # Launches over blocks that were asked for before, by what they depend on.
        self.tiles: dict[tuple[Any, ...], Tiles] = {}
        self._starts: dict[tuple[Any, ...], Start] = {}

    def launch(self, purpose: Purpose) -> Launch:
        """The configuration of a kernel over tiles."""
        stats = len(self.spec.stats)
        return pick(self.device, self.operand_dtype, purpose, stats, self.sizes.d)

    def over_tiles(
        self, kernel: Any, launch: Launch, shape: tuple[int, int], **constants: Any
    ) -> Tiles:
        """A launch of a kernel over a block of that shape."""
        height, width = shape
        start = Start(
            kernel,
            launch.options(),
            FORMS=self.encoded.forms,
            # Of given numbers nobody asks how many features they are of.
            D=0 if self.given else self.sizes.d,
            PRECISION=precision(self.operand_dtype, self.device.arch, self.spec.tf32),
            ACC=as_triton(self.sizes.dtype),
            FLAGGED=len(self.forms) == 2,
            EVEN=height % launch.rows == 0 and width % launch.cols == 0,
            **launch.constants(),
            **constants,
        )
        return Tiles(launch, launch.programs(height, width, self.device), start)

    def vectors(self, kernel: Any, *key: Any, **constants: Any) -> Start:
        """The launch of a kernel over vectors; ``key`` decides the constants."""
        # A kernel's own hash is one of its source.
        place = id(kernel), *key
        found = self._starts.get(place)
        if found is None:
            found = self._starts[place] = Start(kernel, **constants)
        return found


def program_of(scene: Scene) -> Program:
    """The same for every job of the same problem, sizes and strides."""
    job = scene.job
    device = Device.of(job.sizes.device)
    return _program(
        job.spec,
        job.sizes,
        scene.forms,
        device,
        launches(device.arch),
        job.operand_dtype,
        job.given,
        job.scores.row_scale is not None,
        scene.query.stride(),
        scene.key.stride(),
    )


@lru_cache(maxsize=512)
def _program(
    spec: Spec,
    sizes: Sizes,
    forms: tuple[Form, ...],
    device: Device,
    of_launches: Launches,
    operand_dtype: torch.dtype,
    given: bool,
    per_row: bool,
    *strides: tuple[int, ...],
) -> Program:
    return Program(spec, sizes, forms, device, operand_dtype, given)


def programs(count: int, each: int = LINE) -> int:
    """How many it takes where one has ``each`` entries."""
    return -(-count // each)
