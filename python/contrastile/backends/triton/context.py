"""What all launches of a run share."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ...engine.blocks import Block
from ...engine.run import Run
from ...engine.vectors import ChannelVectors
from .device import Device
from .encode import Encoded
from .launch import Launch, Purpose, pick
from .operands import Embedding, as_triton
from .precision import precision
from .sums import SideSums

# Entries of a vector, and rows of an embedding, that one program of the small kernels takes.
LINE = 128
# Entries that one program takes at a time where it goes through whole vectors.
SWEEP = 1024
# Up to so many scores, in one block, only the general form is launched. It takes twice the powers
# (predicted: 9 us of an H200 at N = 4096) and saves the host seven launches of 10 us or more.
SMALL = 2**22


@dataclass(frozen=True, eq=False)
class Carry:
    """What the backward pass finds again: the encoded problem, the fixed shifts, and the flag that
    says on the device whether the general form takes their place.
    """

    encoded: Encoded
    precision: str
    flag: Tensor
    shifts: Tensor
    spans: Tensor
    rows: SideSums | None
    cols: SideSums | None


class Context:
    """A run as the kernels see it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.problem = run.problem
        self.device = Device.of(run.problem.device)
        self.query = Embedding.of(run.query.whole())
        self.key = self.query if run.problem.triangle else Embedding.of(run.key.whole())
        self.acc = as_triton(run.problem.dtype)
        # As in the forward pass, whatever happened to torch's switches since.
        carry = run.carry
        self.precision = (
            carry.precision
            if isinstance(carry, Carry)
            else precision(run.operand_dtype, self.device.arch)
        )
        self.channels = [v for v in run.vectors if isinstance(v, ChannelVectors)]
        self.forms = _forms(run, bool(self.channels))

    @property
    def carry(self) -> Carry:
        """What the forward pass left."""
        assert isinstance(self.run.carry, Carry)
        return self.run.carry

    def is_diagonal(self, block: Block) -> bool:
        """Whether only one triangle of the block is computed."""
        return self.problem.triangle and not block.mirrored

    def launch(self, purpose: Purpose) -> Launch:
        """The configuration of a kernel."""
        dtype, reductions = self.run.operand_dtype, len(self.run.vectors)
        return pick(self.device, dtype, purpose, reductions, self.problem.d)

    def over_tiles(
        self, kernel: Any, launch: Launch, block: Block, *arguments: Any, **constants: Any
    ) -> None:
        """Launch a kernel over the tiles of a block."""
        start = functools.partial(
            kernel[(launch.programs(*block.shape, self.device),)],
            *self.place(block, launch),
            *arguments,
            EVEN=block.shape[0] % launch.rows == 0 and block.shape[1] % launch.cols == 0,
            **constants,
            **self.constants(launch),
        )
        if launch.specialize:
            contextvars.copy_context().run(self._with_scratch, start)
        else:
            start()

    def _with_scratch(self, start: Callable[[], object]) -> None:
        """Descriptors made on the device need memory, from an allocator that Triton keeps in a
        context variable: the caller's context is left as it is.
        """
        device = self.problem.device
        triton.set_allocator(
            lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device)
        )
        start()

    def place(self, block: Block, launch: Launch) -> tuple[Any, ...]:
        """The arguments that say which block of which embeddings."""
        return (
            self.query.argument(launch, launch.rows),
            self.key.argument(launch, launch.cols),
            *self.query.strides,
            *self.key.strides,
            block.rows.start,
            block.rows.stop,
            block.cols.start,
            block.cols.stop,
        )

    def constants(self, launch: Launch) -> dict[str, Any]:
        """Compile-time arguments that all kernels over tiles share."""
        return {
            "FORMS": self.carry.encoded.forms,
            "D": self.problem.d,
            "PRECISION": self.precision,
            "ACC": self.acc,
            "FLAGGED": len(self.forms) == 2,
            **launch.constants(),
        }

    def partials(self, block: Block, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Room for partial sums; zeroed where tiles below a diagonal leave some out."""
        make = torch.zeros if self.is_diagonal(block) else torch.empty
        return make(shape, dtype=dtype, device=self.problem.device)

    def on_device(self) -> contextlib.AbstractContextManager[Any]:
        """Triton launches on the current device, whatever the tensors are on."""
        device = self.problem.device
        return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _forms(run: Run, channels: bool) -> tuple[bool, ...]:
    """Which forms are launched, general or not: fixed shifts, then the general one in case."""
    if not channels:
        return (False,)
    small = run.problem.n * run.problem.m <= SMALL and sum(len(strip) for strip in run.plan) == 1
    return (True,) if small else (False, True)


def programs(count: int, each: int = LINE) -> tuple[int]:
    """A grid in which a program takes ``each`` entries."""
    return (-(-count // each),)


def kept_dots(block: Block, absent: Tensor) -> tuple[Tensor, int]:
    """The memory of a block's dot products and its row stride; any where there is none."""
    return (absent, 0) if block.kept is None else (block.kept, block.kept.stride(0))


def first(*tensors: Tensor | None) -> Tensor:
    """The first that exists: a kernel takes a tensor for every argument, read or not."""
    return next(t for t in tensors if t is not None)
