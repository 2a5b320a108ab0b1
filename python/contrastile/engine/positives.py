"""Scores of indexed pairs: gathered dot products and their gradients, in bounded chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import spans
from .operands import Operand

CHUNK_BYTES = 2**20


def chunk_rows(operand: Operand) -> int:
    """Rows of which a widened copy fits a cache-sized chunk."""
    width = max(operand.tensor.shape[1], 1) * operand.dtype.itemsize
    return max(CHUNK_BYTES // width, 1)


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
