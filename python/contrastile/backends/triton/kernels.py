"""The calls of :class:`~..gpu.kernels.Kernels` in Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.plan import Block
from ...engine.state import State, Upstream, Vectors
from ...problem.spec import NONE
from ...triton_kernels import rows, shift
from ..gpu.entries import Entries
from ..gpu.forms import Form
from ..gpu.kernels import Output
from ..gpu.memory import Memory
from ..gpu.scene import Scene
from .bound import Bound, first
from .encode import class_range
from .gradients import form_coefficients, room_for_sums, weigh_block
from .operands import as_triton
from .program import LINE, SWEEP, programs
from .row_loss import loss_of_rows, slopes_of_sums
from .sums import certify, merge_block, reduce_block, take_logs

# Features that the kernel of norms and positives takes at a time.
FEATURES = 32


class TritonKernels:
    """Bound to a job."""

    settles_only_block = True

    def __init__(self, scene: Scene) -> None:
        self.bound = Bound.of(scene)

    def prepare(self, memory: Memory) -> None:
        """The O(N D) work: positives' dot products, and norms that bound the exponents."""
        scene, program = self.bound.scene, self.bound.program
        sizes, spec, query, key = scene.sizes, scene.spec, scene.query, scene.key
        dots = spec.positives != NONE and not spec.ranks and not scene.job.given
        bounded = Form.FIXED in scene.forms
        if not (dots or bounded or self.bound.split.parts):
            return
        grid = programs(max(sizes.n, sizes.m))
        norms = None
        if bounded:
            norms = torch.empty((2, grid), dtype=sizes.dtype, device=sizes.device)
        start = program.vectors(
            rows.prepare,
            D=query.shape[1],
            ACC=as_triton(sizes.dtype),
            DOTS=dots,
            NORMS=bounded,
            BLOCK=LINE,
            DEPTH=FEATURES,
        )
        start(
            grid,
            query,
            *query.stride(),
            sizes.n,
            key,
            *key.stride(),
            sizes.m,
            first(scene.job.positives, memory.flag),
            first(memory.positive, memory.shifts),
            first(norms, memory.shifts),
            self.bound.split,
        )
        if norms is not None:
            self._choose_shifts(norms, memory)

    def _choose_shifts(self, norms: Tensor, memory: Memory) -> None:
        program, sizes = self.bound.program, self.bound.scene.sizes
        assert memory.spans is not None
        start = program.vectors(shift.choose_shifts, BLOCK=SWEEP)
        start(
            1,
            norms,
            norms.shape[1],
            sizes.n,
            sizes.m,
            self.bound.vectors,
            first(class_range(self.bound.scene.job), memory.spans),
            memory.shifts,
            memory.spans,
            memory.flag,
        )

    def reduce(self, block: Block, form: Form, memory: Memory) -> None:
        """Add the block's sums of a form."""
        reduce_block(self.bound, block, form, memory)

    def certify(self, memory: Memory) -> None:
        """Set the flag where the fixed shift of any log-sum-exp cost precision."""
        certify(self.bound, memory)

    def settle(self, memory: Memory) -> None:
        """Log-sum-exps of the form that holds."""
        take_logs(self.bound, memory)

    def row_loss(
        self, memory: Memory, rows: Vectors, cols: Vectors, slopes: bool
    ) -> tuple[Tensor, Upstream | None]:
        """The loss of rows, and its slopes."""
        return loss_of_rows(self.bound, memory, rows, cols, slopes)

    def slopes_of_sums(self, memory: Memory) -> Upstream:
        """The slopes of a loss of sums."""
        return slopes_of_sums(self.bound, memory)

    def coefficients(self, state: State, entries: Entries) -> Tensor | None:
        """Fill what ``entries`` have room for; returns their unit."""
        return form_coefficients(self.bound, state, entries)

    def weigh(self, block: Block, output: Output, state: State, entries: Entries) -> None:
        """The weights of a block, the positives among them, and its share of the products."""
        weigh_block(self.bound, block, output, state, entries)

    def weigh_and_sum(
        self, block: Block, output: Output, state: State, entries: Entries, memory: Memory
    ) -> None:
        """As :meth:`weigh`, and add the block's sums of a function to those of the rows."""
        sums = room_for_sums(self.bound, block)
        weigh_block(self.bound, block, output, state, entries, sums)
        merge_block(self.bound, (sums, None), Form.SUM, memory)
