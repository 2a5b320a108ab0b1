"""Indexed positives: their dot products, and their gradients put into G."""

from __future__ import annotations

from torch import Tensor

from ...engine.blocks import Block
from ...engine.run import Run
from .machine import Launcher
from .sums import address


class Positives:
    """Of a run that has them."""

    def __init__(self, launcher: Launcher, run: Run) -> None:
        assert run.problem.positives is not None and run.positive_dots is not None
        self.launcher, self.run = launcher, run
        self.columns, self.dots = run.problem.positives.contiguous(), run.positive_dots

    def take(self, operands: tuple[int, int, int, int, int]) -> None:
        """Fill the run's dot products of positives; 0 where the column is -1."""
        self.launcher.kernels.take(
            self.launcher.element,
            self.launcher.target,
            operands,
            self.columns.data_ptr(),
            len(self.columns),
            self.dots.data_ptr(),
        )

    def put(self, block: Block, strip: Tensor, unit: Tensor, products: Tensor | None) -> None:
        """Add unit times the positives' gradients to a block of G, and g dot to the products."""
        grad = self.run.positive_grad
        assert grad is not None
        for view, rows, cols, counted in _views(self.run, block, strip):
            self.launcher.kernels.put(
                self.launcher.element,
                self.launcher.target,
                view.data_ptr(),
                view.stride(),
                self.columns[rows].data_ptr(),
                rows.stop - rows.start,
                (cols.start, cols.stop),
                grad[rows].data_ptr(),
                self.dots[rows].data_ptr(),
                unit.data_ptr(),
                address(products[rows] if counted and products is not None else None),
            )


def _views(run: Run, block: Block, strip: Tensor) -> list[tuple[Tensor, slice, slice, bool]]:
    """G where rows are rows, and its mirror image where the block holds that too; positives count
    once in products.
    """
    views = [(strip, block.rows, block.cols, True)]
    if block.mirrored:
        views.append((strip.t(), block.cols, block.rows, True))
    elif run.problem.triangle:
        views.append((strip.t(), block.rows, block.cols, False))
    return views
