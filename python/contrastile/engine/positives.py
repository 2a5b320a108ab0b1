"""Scores of indexed pairs: gathered dot products and their gradients, in bounded chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import Block, spans
from .operands import Operand
from .row_steps import chunk_rows


def _take(operand: Operand, index: Tensor) -> Tensor:
    return operand.tensor.index_select(0, index).to(operand.dtype)


def dots(query: Operand, key: Operand, rows: Tensor | None, columns: Tensor) -> Tensor:
    """<q_rows[e], k_columns[e]> for each entry e; 0 where the column is -1."""
    out = columns.new_zeros(columns.shape, dtype=query.dtype)
    for span in spans(0, len(columns), chunk_rows(query)):
        at = columns[span]
        left = query.rows(span) if rows is None else _take(query, rows[span])
        product = left * _take(key, at.clamp(min=0))
        out[span] = product.sum(1).masked_fill_(at < 0, 0.0)
    return out


def add_gradients(
    query: Operand,
    key: Operand,
    rows: Tensor | None,
    columns: Tensor,
    weight: Tensor,
    dquery: Tensor | None,
    dkey: Tensor | None,
    key_weight: Tensor,
) -> None:
    """dq[rows[e]] += weight[e] k[columns[e]] and dk[columns[e]] += key_weight[e] q[rows[e]]."""
    for span in spans(0, len(columns), chunk_rows(query)):
        at = columns[span].clamp(min=0)
        if dquery is not None:
            part = _take(key, at).mul_(weight[span, None])
            if rows is None:
                dquery[span] += part
            else:
                dquery.index_add_(0, rows[span], part)
        if dkey is not None:
            left = query.rows(span) if rows is None else _take(query, rows[span])
            dkey.index_add_(0, at, left * key_weight[span, None])


def safe_upstream(upstream: Tensor, columns: Tensor) -> Tensor:
    """The upstream gradient with rows without a column zeroed."""
    return torch.where(columns >= 0, upstream, 0.0)


def take(block: Block, dots: Tensor, columns: Tensor, out: Tensor) -> None:
    """out[i] = the block's dot product at (i, columns[i]), for the rows whose column it holds."""
    for side, rows, cols in _orientations(block, dots):
        own, at = _inside(columns, rows, cols)
        out[rows.start + own] = side[own, at]


def put(block: Block, weights: Tensor, columns: Tensor, grad: Tensor, triangle: bool) -> None:
    """Add grad[i] to G at (i, columns[i]); on a triangle's diagonal at its mirror image too."""
    for side, rows, cols in _orientations(block, weights):
        own, at = _inside(columns, rows, cols)
        upstream = grad[rows][own]
        side.index_put_((own, at), upstream, accumulate=True)
        if triangle and not block.mirrored:
            side.index_put_((at, own), upstream, accumulate=True)


def _orientations(block: Block, values: Tensor) -> list[tuple[Tensor, slice, slice]]:
    """The block as rows by columns, and transposed too if it stands for its mirror image."""
    straight = (values, block.rows, block.cols)
    return [straight, (values.t(), block.cols, block.rows)] if block.mirrored else [straight]


def _inside(columns: Tensor, rows: slice, cols: slice) -> tuple[Tensor, Tensor]:
    """Rows (from 0) whose column lies in ``cols``, and that column (from 0)."""
    mine = columns[rows]
    own = ((mine >= cols.start) & (mine < cols.stop)).nonzero().squeeze(1)
    return own, mine[own] - cols.start
