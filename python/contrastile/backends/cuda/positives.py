"""Indexed positives: their dot products, and their gradients put into G, without a wait."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.blocks import Block, spans
from ...engine.run import Run


def take(run: Run) -> None:
    """Fill the run's dot products of positives; 0 where the column is -1."""
    columns, out = run.problem.positives, run.positive_dots
    assert columns is not None and out is not None
    query, key = run.query.whole(), run.key.whole()
    # Two widened copies and their product at a time.
    step = max(run.problem.workspace // (12 * max(run.problem.d, 1)), 1)
    for span in spans(0, len(columns), step):
        own = key.index_select(0, columns[span].clamp(min=0)).to(out.dtype)
        dots = (query[span].to(out.dtype) * own).sum(1)
        out[span] = torch.where(columns[span] >= 0, dots, 0.0)


def put(run: Run, block: Block, strip: Tensor, unit: Tensor, products: Tensor | None) -> None:
    """Add unit times the positives' gradients to a block of G, and g dot to the products."""
    columns, grad, dots = run.problem.positives, run.positive_grad, run.positive_dots
    assert columns is not None and grad is not None and dots is not None
    for view, rows, cols, counted in _views(run, block, strip):
        if rows.stop == rows.start or cols.stop == cols.start:
            continue
        mine = columns[rows]
        inside = (mine >= cols.start) & (mine < cols.stop)
        at = torch.where(inside, mine - cols.start, 0)[:, None]
        added = torch.where(inside, grad[rows], 0.0)
        value = view.gather(1, at).float() + (added * unit).float()[:, None]
        view.scatter_(1, at, value.to(view.dtype))
        if counted and products is not None:
            products[rows] += torch.where(inside, added.double() * dots[rows], 0.0)


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
