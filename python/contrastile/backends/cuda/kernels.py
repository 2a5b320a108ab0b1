"""The calls of :class:`~..gpu.kernels.Kernels` in CUDA."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.plan import Block
from ...engine.state import State, Vectors
from ..gpu.entries import Entries
from ..gpu.forms import Form
from ..gpu.kernels import Output
from ..gpu.memory import Memory, Side
from ..gpu.scene import Scene
from . import positives, shifts, sums
from .coefficients import addresses_of, form
from .machine import Machine, machine_of
from .programs import Programs
from .sums import Partials, address

# Rows of a group of warps, whose columns are summed before they leave the multiprocessor.
GROUP_ROWS = 64


class CudaKernels:
    """Bound to a job."""

    settles_only_block = False

    def __init__(self, scene: Scene) -> None:
        machine = machine_of(scene.sizes.device)
        assert isinstance(machine, Machine), machine
        self.scene = scene
        self.launcher = machine.launcher(scene.job.operand_dtype)
        self.kernels = machine.kernels
        # The copy that is multiplied: embeddings without features are padded by some that are 0.
        self.features = scene.query.shape[1]
        self.tile_cols = self.kernels.tile_cols(
            self.launcher.element, self.launcher.target, self.features
        )
        self.programs = Programs(machine.kernels, scene.job)
        # What the coefficients are multiplied by, in fp64, as the kernels read it.
        self.unit: Tensor | None = None

    def prepare(self, memory: Memory) -> None:
        """Zeroed sums and flag, fixed shifts, the positives' dot products."""
        scene = self.scene
        if memory.spans is not None:
            memory.flag.zero_()
            shifts.choose(scene.job, self.programs.coefficients, memory.shifts, memory.spans)
        for side in (memory.rows, None if scene.spec.triangle else memory.cols):
            for total, top in () if side is None else zip(side.general, side.tops, strict=True):
                total.zero_()
                top.fill_(-torch.inf)
        columns = scene.job.positives
        if columns is not None and memory.positive is not None:
            positives.take(self.launcher, self._operands, columns, memory.positive)

    def reduce(self, block: Block, form: Form, memory: Memory) -> None:
        """Add the block's sums of a form."""
        height, width = block.shape
        rows = cols = None
        if memory.rows is not None:
            rows = self._partials(block, -(-width // self.tile_cols), height, form)
        if memory.cols is not None:
            cols = self._partials(block, -(-height // GROUP_ROWS), width, form)
        flag = self._flag(memory.flag)
        self.kernels.reduce(
            *self._place(block, form, flag, memory.shifts),
            *(address(None if parts is None else parts.sums) for parts in (rows, cols)),
            *(address(None if parts is None else parts.tops) for parts in (rows, cols)),
        )
        for side, parts, span in (
            (memory.rows, rows, block.rows),
            (memory.cols, cols, block.cols),
        ):
            if side is not None and parts is not None:
                sums.add(self.launcher, side, parts, span, form, flag)

    def certify(self, memory: Memory) -> None:
        """Set the flag where the fixed shift of any log-sum-exp cost precision."""
        stats, sizes, spans = self.scene.spec.stats, self.scene.sizes, memory.spans
        assert spans is not None
        for side, terms in self._sides(memory, sizes.m, sizes.n):
            sums.certify(self.launcher, stats, side, terms, spans, memory.flag)

    def settle(self, memory: Memory) -> None:
        """Log-sum-exps of the form that holds."""
        for side, _ in self._sides(memory, 0, 0):
            sums.settle(self.launcher, side, memory.shifts, self._flag(memory.flag))

    def row_loss(self, memory: Memory, rows: Vectors, cols: Vectors, slopes: bool) -> None:
        """None: made by torch's operations."""
        return None

    def coefficients(self, state: State, entries: Entries) -> Tensor | None:
        """Fill what ``entries`` have room for; returns their unit."""
        self.unit = form(self.launcher, entries, self.scene.spec.triangle)
        return self.unit.to(self.scene.sizes.dtype)

    def weigh(self, block: Block, output: Output, state: State, entries: Entries) -> None:
        """The weights of a block, the positives among them, and its share of the products."""
        for each in self.scene.forms:
            self._weigh(block, output, state, entries, each)
        if entries.positive is not None:
            assert self.unit is not None and state.positive is not None
            grad, dots, own = entries.positive, state.positive, output
            positives.put(
                self.launcher, self.scene, block, own.weights, self.unit, grad, dots, own.products
            )

    def _weigh(
        self, block: Block, output: Output, state: State, entries: Entries, form: Form
    ) -> None:
        strip, products = output.weights, output.products
        assert state.shifts is not None and state.flag is not None
        flag = self._flag(state.flag)
        parts = None
        if products is not None:
            shape = (1, -(-block.shape[1] // self.tile_cols), block.shape[0])
            parts = Partials(self._room(block, shape, 0.0), None)
        self.kernels.weigh(
            *self._place(block, form, flag, state.shifts),
            addresses_of(entries),
            strip.data_ptr(),
            strip.stride(0),
            address(None if parts is None else parts.sums),
        )
        if parts is not None and products is not None:
            sums.merge(self.launcher, form, parts, flag, [products[block.rows]], [], self.unit)

    def _place(
        self, block: Block, form: Form, flag: Tensor | None, shifts: Tensor
    ) -> tuple[object, ...]:
        """The arguments that both kernels over tiles share."""
        return (
            self.launcher.element,
            getattr(self.kernels.Form, form.value),
            self.launcher.target,
            self.programs.reductions,
            self._operands,
            (*_ends(block.rows), *_ends(block.cols), self.scene.is_diagonal(block)),
            address(flag),
            shifts.data_ptr(),
        )

    @property
    def _operands(self) -> positives.Operands:
        query, key = self.scene.query, self.scene.key
        return query.data_ptr(), key.data_ptr(), query.stride(0), key.stride(0), self.features

    def _flag(self, flag: Tensor) -> Tensor | None:
        """Which of two forms holds; None where there is only one."""
        return flag if len(self.scene.forms) == 2 else None

    def _sides(self, memory: Memory, rows: int, cols: int) -> list[tuple[Side, int]]:
        """Each side once, with a number of its own."""
        both = (memory.rows, rows), (None if self.scene.spec.triangle else memory.cols, cols)
        return [(side, number) for side, number in both if side is not None]

    def _room(self, block: Block, shape: tuple[int, ...], absent: float) -> Tensor:
        """For partial sums; tiles below a diagonal leave theirs out."""
        room = torch.empty(shape, dtype=torch.float32, device=self.scene.sizes.device)
        return room.fill_(absent) if self.scene.is_diagonal(block) else room

    def _partials(self, block: Block, tiles: int, length: int, form: Form) -> Partials:
        shape = (len(self.scene.spec.stats), tiles, length)
        tops = self._room(block, shape, -torch.inf) if form is Form.GENERAL else None
        return Partials(self._room(block, shape, 0.0), tops)


def _ends(span: slice) -> tuple[int, int]:
    return span.start, span.stop
