"""The Triton backend bound to one run."""

from __future__ import annotations

from torch import Tensor

from ...engine.blocks import Block
from ...engine.run import Run
from .backward import Weigher
from .bounds import begin
from .coefficients import form_coefficients
from .context import Carry, Context
from .forward import reduce_block
from .stats import certify, take_logs


class TritonKernel:
    """Reduces and weighs blocks; which form is right is settled on the device, without a wait."""

    def __init__(self, run: Run) -> None:
        self.context = Context(run)
        self.weigher: Weigher | None = None
        with self.context.on_device():
            if not isinstance(run.carry, Carry):
                run.carry = begin(self.context)
            if any(not vectors.upstream.absent for vectors in run.vectors):
                self.weigher = Weigher(self.context, form_coefficients(self.context))
                run.unit = self.weigher.coefficients.unit

    def reduce(self, block: Block) -> None:
        """Add the block's partial sums to the run's."""
        with self.context.on_device():
            reduce_block(self.context, block, self.context.forms[0])

    def finish(self) -> None:
        """Settle the shifts; where they failed, the device does every block over."""
        if len(self.context.forms) == 1:
            return
        with self.context.on_device():
            certify(self.context)
            for strip in self.context.run.plan:
                for block in strip:
                    reduce_block(self.context, block, general=True)
            take_logs(self.context)

    def weights(self, block: Block, row_products: Tensor | None) -> Tensor:
        """G of the block, in memory that the next call overwrites."""
        assert self.weigher is not None
        with self.context.on_device():
            return self.weigher.weights(block, row_products)
