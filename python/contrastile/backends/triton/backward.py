"""Strips of G: the weights of a block, then the indexed positives put in."""

from __future__ import annotations

from torch import Tensor

from ...engine.blocks import Block
from ...triton_kernels import merge, weights
from ..strips import StripMemory
from .coefficients import Coefficients
from .context import LINE, Context, first, kept_dots, programs
from .launch import Purpose
from .operands import as_triton, strip_argument


class Weigher:
    """Writes G of one block after the other into the same memory."""

    def __init__(self, context: Context, coefficients: Coefficients) -> None:
        self.context = context
        self.coefficients = coefficients
        self.memory = StripMemory(context.run)
        # Any number where G has no unit; the kernel does not read it then.
        self.unit = first(coefficients.unit, context.carry.shifts)

    def weights(self, block: Block, row_products: Tensor | None) -> Tensor:
        """unit G of the block; valid until the next call."""
        out = self.memory.strip(*block.shape)
        with_products = row_products is not None
        parts = [self._weigh(block, out, with_products, general) for general in self.context.forms]
        if row_products is not None:
            self._add_products(block, parts, row_products)
        if self.context.run.positive_grad is not None:
            self._put_positives(block, out, row_products)
        return out

    def _weigh(self, block: Block, out: Tensor, with_products: bool, general: bool) -> Tensor:
        """Write the strip; what is returned are the partial row products [tiles, height]."""
        context, carry = self.context, self.context.carry
        diagonal = context.is_diagonal(block)
        launch = context.launch(_purpose(context, block, general))
        products = carry.shifts
        if with_products:
            tiles = -(-block.shape[1] // launch.cols) * launch.parts
            products = context.partials(block, (tiles, block.shape[0]), context.problem.dtype)
        context.over_tiles(
            weights.weigh,
            launch,
            block,
            carry.encoded.vectors,
            self.coefficients.factors,
            self.coefficients.lines,
            carry.encoded.data,
            carry.flag,
            carry.shifts,
            strip_argument(out, launch, launch.rows, launch.cols // launch.parts),
            strip_argument(out, launch, launch.cols // launch.parts, launch.rows)
            if diagonal
            else carry.flag,
            out.stride(0),
            products,
            *kept_dots(block, carry.flag),
            KEPT=block.kept is not None,
            CHANNELS=bool(context.channels),
            PRODUCTS=with_products,
            DIAGONAL=diagonal,
            GENERAL=general,
            OUT=as_triton(out.dtype),
            PARTS=launch.parts,
        )
        return products

    def _add_products(self, block: Block, parts: list[Tensor], row_products: Tensor) -> None:
        length = block.shape[0]
        merge.add_products[programs(length)](
            parts[0],
            len(parts[0]),
            parts[-1],
            len(parts[-1]),
            row_products,
            block.rows.start,
            length,
            self.context.carry.flag,
            self.unit,
            UNIT=self.coefficients.unit is not None,
            GENERAL=len(parts) > 1,
            BLOCK=LINE,
        )

    def _put_positives(self, block: Block, out: Tensor, row_products: Tensor | None) -> None:
        run, problem = self.context.run, self.context.problem
        weights.put_positives[programs(problem.n)](
            out,
            out.stride(0),
            block.rows.start,
            block.rows.stop,
            block.cols.start,
            block.cols.stop,
            problem.positives,
            run.positive_grad,
            run.positive_dots,
            self.unit,
            first(row_products, self.context.carry.flag),
            problem.n,
            UNIT=self.coefficients.unit is not None,
            TRIANGLE=problem.triangle,
            PRODUCTS=row_products is not None,
            BLOCK=LINE,
        )


def _purpose(context: Context, block: Block, general: bool) -> Purpose:
    if block.kept is not None:
        return Purpose.WEIGH_KEPT
    if context.is_diagonal(block):
        return Purpose.WEIGH_DIAGONAL_GENERAL if general else Purpose.WEIGH_DIAGONAL
    if general:
        return Purpose.WEIGH_GENERAL
    return Purpose.WEIGH if context.channels else Purpose.WEIGH_TERMS
