"""Strips of G: the weights of a block, then the indexed positives put in."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.blocks import Block
from ...engine.vectors import ChannelVectors
from ...triton_kernels import weights
from .context import LINE, Context, first, programs
from .forward import add_partials
from .launch import Purpose
from .operands import as_triton, strip_argument

# Elements that the rows of a strip are padded to: whole 16-byte vectors in every dtype.
PADDING = 16


class Weigher:
    """Writes G of one block after the other into the same memory."""

    def __init__(self, context: Context, unit: Tensor) -> None:
        self.context = context
        self.unit = unit
        self.memory: Tensor | None = None
        self.gradients = _gradients(context)
        self.sides = tuple(
            int(grad is not None)
            for vectors in context.run.vectors
            for grad in (vectors.grads.rows, vectors.grads.cols)
        )

    def weights(self, block: Block, row_products: Tensor | None) -> Tensor:
        """unit G of the block; valid until the next call."""
        out = self._strip(*block.shape)
        for general in self.context.forms:
            self._weigh(block, out, row_products, general)
        if self.context.run.positive_grad is not None:
            self._put_positives(block, out, row_products)
        return out

    def _weigh(self, block: Block, out: Tensor, row_products: Tensor | None, general: bool) -> None:
        context, carry = self.context, self.context.carry
        diagonal = context.is_diagonal(block)
        launch = context.launch(_purpose(context, block, general))
        tiles = -(-block.shape[1] // launch.cols) * launch.parts
        products = None
        if row_products is not None:
            products = context.partials(block, (tiles, block.shape[0]), context.problem.dtype)
        weights.weigh[(launch.programs(*block.shape, context.device),)](
            *context.place(block, launch),
            carry.encoded.vectors,
            self.gradients,
            carry.encoded.data,
            carry.flag,
            carry.shifts,
            self.unit,
            strip_argument(out, launch, launch.rows, launch.cols // launch.parts),
            strip_argument(out, launch, launch.cols // launch.parts, launch.rows),
            out.stride(0),
            first(products, carry.flag),
            first(block.kept, carry.flag),
            block.shape[1],
            KEPT=block.kept is not None,
            CHANNELS=bool(context.channels),
            SIDES=self.sides,
            PRODUCTS=products is not None,
            DIAGONAL=diagonal,
            GENERAL=general,
            OUT=as_triton(out.dtype),
            PARTS=launch.parts,
            **context.constants(launch),
        )
        if products is not None and row_products is not None:
            add_partials(context, products, row_products, block.rows, tiles, general)

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
            TRIANGLE=problem.triangle,
            PRODUCTS=row_products is not None,
            BLOCK=LINE,
        )

    def _strip(self, height: int, width: int) -> Tensor:
        if self.memory is None:
            run = self.context.run
            largest = max(b.shape[0] * _padded(b.shape[1]) for strip in run.plan for b in strip)
            self.memory = torch.empty(
                largest, dtype=run.operand_dtype, device=self.context.problem.device
            )
        return self.memory[: height * _padded(width)].view(height, _padded(width))[:, :width]


def _purpose(context: Context, block: Block, general: bool) -> Purpose:
    if block.kept is not None:
        return Purpose.WEIGH_KEPT
    if context.is_diagonal(block):
        return Purpose.WEIGH_DIAGONAL_GENERAL if general else Purpose.WEIGH_DIAGONAL
    if general:
        return Purpose.WEIGH_GENERAL
    return Purpose.WEIGH if context.channels else Purpose.WEIGH_TERMS


def _padded(width: int) -> int:
    return -(-width // PADDING) * PADDING


def _gradients(context: Context) -> tuple[tuple[Tensor, ...], ...]:
    """Of a channel the shifts and coefficients of rows and of columns; of a term the latter."""
    found: list[tuple[Tensor, ...]] = []
    for vectors in context.run.vectors:
        grads, absent = vectors.grads, context.carry.shifts
        of_rows, of_cols = first(grads.rows, absent), first(grads.cols, absent)
        if isinstance(vectors, ChannelVectors):
            lse = vectors.lse
            row_shift, col_shift = first(lse.rows, absent), first(lse.cols, absent)
            found.append((row_shift, of_rows, col_shift, of_cols))
        else:
            factor = vectors.reduction.factor
            scaled = (g if factor == 1.0 else g * factor for g in (of_rows, of_cols))
            found.append(tuple(scaled))
    return tuple(found)
