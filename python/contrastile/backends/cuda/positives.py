"""Indexed positives: their dot products, and their gradients put into G."""

from __future__ import annotations

from torch import Tensor

from ...engine.plan import Block
from ..gpu.scene import Scene
from .machine import Launcher
from .sums import address

Operands = tuple[int, int, int, int, int]


def take(launcher: Launcher, operands: Operands, columns: Tensor, dots: Tensor) -> None:
    """Fill the dot products of positives; 0 where the column is -1."""
    columns = columns.contiguous()
    launcher.kernels.take(
        launcher.element,
        launcher.target,
        operands,
        columns.data_ptr(),
        len(columns),
        dots.data_ptr(),
    )


def put(
    launcher: Launcher,
    scene: Scene,
    block: Block,
    strip: Tensor,
    unit: Tensor,
    grad: Tensor,
    dots: Tensor,
    products: Tensor | None,
) -> None:
    """Add unit times the positives' gradients to a block of G, and g dot to the products."""
    columns = scene.job.positives
    assert columns is not None
    columns = columns.contiguous()
    for view, rows, cols, counted in _views(scene, block, strip):
        launcher.kernels.put(
            launcher.element,
            launcher.target,
            view.data_ptr(),
            view.stride(),
            columns[rows].data_ptr(),
            rows.stop - rows.start,
            (cols.start, cols.stop),
            grad[rows].data_ptr(),
            dots[rows].data_ptr(),
            unit.data_ptr(),
            address(products[rows] if counted and products is not None else None),
        )


def _views(scene: Scene, block: Block, strip: Tensor) -> list[tuple[Tensor, slice, slice, bool]]:
    """G where rows are rows, and its mirror image where the block holds that too; positives count
    once in products.
    """
    views = [(strip, block.rows, block.cols, True)]
    if block.mirrored:
        views.append((strip.t(), block.cols, block.rows, True))
    elif scene.spec.triangle:
        views.append((strip.t(), block.rows, block.cols, False))
    return views
