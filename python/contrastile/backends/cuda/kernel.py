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
from . import positives
from .coefficients import Coefficients, form
from .machine import Machine, machine_of
from .programs import Programs
from .shifts import choose, failed
from .sums import LogSums, Partials, Raised, log_sums, publish

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
        self.machine = machine
        self.element = machine.element(run.operand_dtype)
        self.target = machine.target(run.operand_dtype)
        self.query = aligned_rows(run.query.whole())
        self.key = self.query if run.problem.triangle else aligned_rows(run.key.whole())
        # Of no features at all there is a copy with some that are 0.
        self.features = self.query.shape[1]
        self.tile_cols = machine.kernels.tile_cols(self.element, self.target, self.features)
        self.channels = isinstance(run.vectors[0], ChannelVectors)
        self.forms = self._forms()
        self.raised_rows: Raised | None = None
        self.raised_cols: Raised | None = None
        self.carry = run.carry if isinstance(run.carry, Carry) else self._begin()
        self.coefficients: Coefficients | None = None
        if any(not own.upstream.absent for own in run.vectors):
            self.coefficients = form(run, self.carry.rows, self.carry.cols)
            run.unit = self.coefficients.unit.to(self.problem.dtype)
            self.memory = StripMemory(run)

    def reduce(self, block: Block) -> None:
        """Add the block's partial sums to the run's."""
        self._reduce(block, self.forms[0])

    def finish(self) -> None:
        """Settle the shifts; where they failed, the device does every block over."""
        if not self.channels:
            return
        carry = self.carry
        if len(self.forms) == 2:
            carry.flag = failed(self.run, carry.spans)
            for strip in self.run.plan:
                for block in strip:
                    self._reduce(block, "general")
        carry.rows = self._log_sums("rows", self.raised_rows)
        carry.cols = None if self.problem.triangle else self._log_sums("cols", self.raised_cols)

    def weights(self, block: Block, row_products: Tensor | None) -> Tensor:
        """unit G of the block, in memory that the next call overwrites."""
        assert self.coefficients is not None
        strip = self.memory.strip(*block.shape)
        parts = [self._weigh(block, strip, name, row_products is not None) for name in self.forms]
        if row_products is not None:
            own = parts[0]
            if len(parts) == 2:
                assert self.carry.flag is not None
                own = torch.where(self.carry.flag != 0, parts[1], own)
            row_products[block.rows] += own.sum(0, dtype=torch.float64) / self.coefficients.unit
        if self.run.positive_grad is not None:
            positives.put(self.run, block, strip, self.coefficients.unit, row_products)
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
        self.machine.kernels.reduce(
            *self._scene(block, name),
            *(_address(None if side is None else side.sums) for side in (rows, cols)),
            *(_address(None if side is None else side.tops) for side in (rows, cols)),
        )
        for side, span, which in ((rows, block.rows, "rows"), (cols, block.cols, "cols")):
            if side is not None:
                self._add(side, span, which, general)

    def _weigh(self, block: Block, strip: Tensor, name: str, with_products: bool) -> Tensor:
        """Write the strip; what is returned are the partial row products [tiles, height]."""
        assert self.coefficients is not None
        tiles = -(-block.shape[1] // self.tile_cols)
        products = self._room(block, (tiles, block.shape[0]) if with_products else (0,), 0.0)
        addresses = [tuple(_address(vector) for vector in own) for own in self.coefficients.vectors]
        self.machine.kernels.weigh(
            *self._scene(block, name),
            addresses,
            strip.data_ptr(),
            strip.stride(0),
            products.data_ptr() if with_products else 0,
        )
        return products

    def _scene(self, block: Block, name: str) -> tuple[object, ...]:
        """The arguments that both kernels share."""
        flag = self.carry.flag if len(self.forms) == 2 and self.carry.flag is not None else None
        query, key = self.query, self.key
        return (
            self.element,
            getattr(self.machine.kernels.Form, name),
            self.target,
            self.carry.programs.reductions,
            (query.data_ptr(), key.data_ptr(), query.stride(0), key.stride(0), self.features),
            (*_ends(block.rows), *_ends(block.cols), self._is_diagonal(block)),
            _address(flag),
            self.carry.shifts.data_ptr(),
        )

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
        programs = Programs(self.machine.kernels, problem, run.vectors)
        shifts = torch.zeros(len(run.vectors), device=problem.device)
        spans = shifts.double()
        if len(self.forms) == 2:
            shifts, spans = choose(run, programs.coefficients)
        if run.takes_positives:
            positives.take(run)
        run.carry = carry = Carry(programs, shifts, spans)
        if self.channels:
            count, device = len(run.vectors), problem.device
            if problem.rows:
                self.raised_rows = Raised.of(count, problem.n, device)
            if problem.triangle:
                self.raised_cols = self.raised_rows
            elif problem.columns:
                self.raised_cols = Raised.of(count, problem.m, device)
        return carry

    def _add(self, partials: Partials, span: slice, which: str, general: bool) -> None:
        if general:
            raised = self.raised_rows if which == "rows" else self.raised_cols
            assert raised is not None
            raised.add(partials, span)
            return
        for own, sums in zip(self.run.vectors, partials.sums, strict=True):
            getattr(own.sums, which)[span] += sums.sum(0, dtype=torch.float64)

    def _log_sums(self, which: str, raised: Raised | None) -> LogSums | None:
        if raised is None:
            return None
        fixed = torch.stack([getattr(own.sums, which) for own in self.run.vectors])
        sums = log_sums(raised, fixed, self.carry.shifts, self.carry.flag)
        publish(self.run, which, sums)
        return sums

    def _is_diagonal(self, block: Block) -> bool:
        return self.problem.triangle and not block.mirrored

    def _room(self, block: Block, shape: tuple[int, ...], absent: float) -> Tensor:
        """For partial sums; tiles below a diagonal leave theirs out."""
        if self._is_diagonal(block):
            return torch.full(shape, absent, device=self.problem.device)
        return torch.empty(shape, device=self.problem.device)

    def _partials(self, block: Block, tiles: int, length: int, general: bool) -> Partials:
        shape = (len(self.run.vectors), tiles, length)
        tops = self._room(block, shape, -torch.inf) if general else None
        return Partials(self._room(block, shape, 0.0), tops)


def _ends(span: slice) -> tuple[int, int]:
    return span.start, span.stop


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
