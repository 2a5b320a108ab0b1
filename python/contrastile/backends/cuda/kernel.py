"""The CUDA backend bound to one run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.blocks import Block
from ...engine.run import Run
from ...engine.vectors import ChannelVectors
from ..aligned import aligned_rows
from ..strips import StripMemory
from .coefficients import Coefficients, form
from .machine import Machine, machine_of
from .positives import Positives
from .programs import Programs
from .shifts import choose
from .sums import LogSums, Partials, SideSums, address, merge

# Rows of a group of warps, whose columns are summed before they leave the multiprocessor.
GROUP_ROWS = 64
# Up to so many scores, in one block, only the general form is launched.
SMALL = 2**22


@dataclass(eq=False)
class Carry:
    """What the backward pass finds again."""

    programs: Programs
    shifts: Tensor
    spans: Tensor
    flag: Tensor | None = None
    rows: LogSums | None = None
    cols: LogSums | None = None


class CudaKernel:
    """Reduces and weighs blocks; which form is right is settled on the device, without a wait."""

    def __init__(self, run: Run) -> None:
        self.run, self.problem = run, run.problem
        machine = machine_of(run.problem.device)
        assert isinstance(machine, Machine), machine
        self.launcher = machine.launcher(run.operand_dtype)
        self.kernels = machine.kernels
        self.query = aligned_rows(run.query.whole())
        self.key = self.query if run.problem.triangle else aligned_rows(run.key.whole())
        # Of no features at all there is a copy with some that are 0.
        self.features = self.query.shape[1]
        self.tile_cols = self.kernels.tile_cols(
            self.launcher.element, self.launcher.target, self.features
        )
        self.channels = isinstance(run.vectors[0], ChannelVectors)
        self.forms = self._forms()
        self.positives = None if run.positive_dots is None else Positives(self.launcher, run)
        self.rows: SideSums | None = None
        self.cols: SideSums | None = None
        self.carry = run.carry if isinstance(run.carry, Carry) else self._begin()
        self.coefficients: Coefficients | None = None
        if any(not own.upstream.absent for own in run.vectors):
            self.coefficients = form(self.launcher, run, self.carry.rows, self.carry.cols)
            run.unit = self.coefficients.unit.to(self.problem.dtype)
            self.memory = StripMemory(run)

    def reduce(self, block: Block) -> None:
        """Add the block's partial sums to the run's."""
        self._reduce(block, self.forms[0])

    def finish(self) -> None:
        """Settle the shifts; where they failed, the device does every block over."""
        if not self.channels:
            return
        carry, problem = self.carry, self.problem
        sides = (self.rows, problem.m), (None if problem.triangle else self.cols, problem.n)
        if len(self.forms) == 2:
            carry.flag = torch.zeros(1, dtype=torch.int32, device=problem.device)
            for side, terms in sides:
                if side is not None:
                    side.certify(carry.spans, terms, carry.flag)
            for strip in self.run.plan:
                for block in strip:
                    self._reduce(block, "general")
        carry.rows, carry.cols = (
            None if side is None else side.settle(carry.shifts, carry.flag) for side, _ in sides
        )

    def weights(self, block: Block, row_products: Tensor | None) -> Tensor:
        """unit G of the block, in memory that the next call overwrites."""
        assert self.coefficients is not None
        strip = self.memory.strip(*block.shape)
        for name in self.forms:
            self._weigh(block, strip, name, row_products)
        if self.run.positive_grad is not None:
            assert self.positives is not None
            self.positives.put(block, strip, self.coefficients.unit, row_products)
        return strip

    # --- launches

    def _reduce(self, block: Block, name: str) -> None:
        problem, general = self.problem, name == "general"
        height, width = block.shape
        rows = cols = None
        if problem.rows:
            rows = self._partials(block, -(-width // self.tile_cols), height, general)
        if problem.columns or problem.triangle:
            cols = self._partials(block, -(-height // GROUP_ROWS), width, general)
        self.kernels.reduce(
            *self._scene(block, name),
            *(address(None if parts is None else parts.sums) for parts in (rows, cols)),
            *(address(None if parts is None else parts.tops) for parts in (rows, cols)),
        )
        for side, parts, span in (
            (self.rows, rows, block.rows),
            (self.cols, cols, block.cols),
        ):
            if parts is not None:
                assert side is not None
                side.add(parts, span, name, self._flag)

    def _weigh(self, block: Block, strip: Tensor, name: str, row_products: Tensor | None) -> None:
        """Write the strip, and add to the row products."""
        assert self.coefficients is not None
        products = None
        if row_products is not None:
            shape = (1, -(-block.shape[1] // self.tile_cols), block.shape[0])
            products = Partials(self._room(block, shape, 0.0), None)
        self.kernels.weigh(
            *self._scene(block, name),
            [tuple(address(vector) for vector in own) for own in self.coefficients.vectors],
            strip.data_ptr(),
            strip.stride(0),
            address(None if products is None else products.sums),
        )
        if products is not None and row_products is not None:
            totals, unit = [row_products[block.rows]], self.coefficients.unit
            merge(self.launcher, name, products, self._flag, totals, [], unit)

    def _scene(self, block: Block, name: str) -> tuple[object, ...]:
        """The arguments that both kernels share."""
        return (
            self.launcher.element,
            getattr(self.kernels.Form, name),
            self.launcher.target,
            self.carry.programs.reductions,
            self._operands,
            (*_ends(block.rows), *_ends(block.cols), self._is_diagonal(block)),
            address(self._flag),
            self.carry.shifts.data_ptr(),
        )

    @property
    def _operands(self) -> tuple[int, int, int, int, int]:
        query, key = self.query, self.key
        return query.data_ptr(), key.data_ptr(), query.stride(0), key.stride(0), self.features

    @property
    def _flag(self) -> Tensor | None:
        """Which of two forms holds; none before it is known, or where there is only one."""
        return self.carry.flag

    # --- memory and sums

    def _forms(self) -> tuple[str, ...]:
        if not self.channels:
            return ("term",)
        run = self.run
        one_block = sum(len(strip) for strip in run.plan) == 1
        small = run.problem.n * run.problem.m <= SMALL and one_block
        return ("general",) if small else ("fixed", "general")

    def _begin(self) -> Carry:
        run, problem = self.run, self.problem
        programs = Programs(self.kernels, problem, run.vectors)
        shifts = torch.zeros(len(run.vectors), dtype=torch.float32, device=problem.device)
        spans = shifts.double()
        if len(self.forms) == 2:
            shifts, spans = choose(run, programs.coefficients)
        if self.positives is not None:
            self.positives.take(self._operands)
        run.carry = carry = Carry(programs, shifts, spans)
        if problem.rows:
            self.rows = self._side("rows", problem.n)
        if problem.triangle:
            self.cols = self.rows
        elif problem.columns:
            self.cols = self._side("cols", problem.m)
        return carry

    def _side(self, name: str, length: int) -> SideSums:
        return SideSums(self.launcher, self.run, name, length)

    def _is_diagonal(self, block: Block) -> bool:
        return self.problem.triangle and not block.mirrored

    def _room(self, block: Block, shape: tuple[int, ...], absent: float) -> Tensor:
        """For partial sums; tiles below a diagonal leave theirs out."""
        room = torch.empty(shape, dtype=torch.float32, device=self.problem.device)
        return room.fill_(absent) if self._is_diagonal(block) else room

    def _partials(self, block: Block, tiles: int, length: int, general: bool) -> Partials:
        shape = (len(self.run.vectors), tiles, length)
        tops = self._room(block, shape, -torch.inf) if general else None
        return Partials(self._room(block, shape, 0.0), tops)


def _ends(span: slice) -> tuple[int, int]:
    return span.start, span.stop
