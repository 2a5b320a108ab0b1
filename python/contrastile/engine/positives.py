"""Scores of indexed pairs: gathered dot products and their gradients, in bounded chunks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .job import Job
from .operands import Operand
from .row_steps import chunk_rows
from .spans import WHOLE, part, spans


def dots(
    query: Operand, key: Operand, rows: Tensor | None, columns: Tensor, dtype: torch.dtype
) -> Tensor:
    """<q_rows[e], k_columns[e]> for each entry e; 0 where the column is -1.

    Entries without a column are computed and left out: to look for them would wait for a GPU.
    """
    out = columns.new_zeros(columns.shape, dtype=dtype)
    if not len(key.tensor):
        return out
    for own, row, column in _entries(query, rows, columns):
        found = (_take(query, row, dtype) * _take(key, column, dtype)).sum(1)
        out[own] = torch.where(columns[own] >= 0, found, 0.0)
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
    if not len(key.tensor):
        return
    for own, row, column in _entries(query, rows, columns):
        there = (columns[own] >= 0).unsqueeze(1)
        if dquery is not None:
            values = _take(key, column, dquery.dtype).mul_(weight[own, None])
            dquery.index_add_(0, row, torch.where(there, values, 0.0))
        if dkey is not None:
            values = _take(query, row, dkey.dtype) * key_weight[own, None]
            dkey.index_add_(0, column, torch.where(there, values, 0.0))


def positive_scores(job: Job, found: Tensor | None, rows: slice = WHOLE) -> Tensor | None:
    """Scores of the positives of ``rows`` from their dot products; 0 where there is none.

    NaN instead of infinite: a loss of an infinite score
    could come out as a number that means nothing.
    """
    columns = job.positives
    if found is None or columns is None:
        return None
    scores = job.scores
    own = scores.scale if scores.row_scale is None else part(scores.row_scale, rows)
    score = part(found, rows) * own
    if scores.row_bias is not None or scores.col_bias is not None:
        columns = part(columns, rows)
        if scores.row_bias is not None:
            score = score + part(scores.row_bias, rows)
        if scores.col_bias is not None and len(scores.col_bias):
            score = score + scores.col_bias[columns.clamp(min=0)]
        score = torch.where(columns >= 0, score, 0.0)
    return (score + (score - score)).to(job.sizes.dtype)


def safe_upstream(upstream: Tensor, columns: Tensor) -> Tensor:
    """The upstream gradient with rows without a column zeroed."""
    return torch.where(columns >= 0, upstream, 0.0)


def _take(operand: Operand, index: Tensor, dtype: torch.dtype) -> Tensor:
    return operand.tensor.index_select(0, index).to(dtype)


def _entries(
    query: Operand, rows: Tensor | None, columns: Tensor
) -> Iterator[tuple[slice | Tensor, Tensor, Tensor]]:
    """(entries, their rows, their columns) chunk by chunk; column 0 stands for none."""
    for span in spans(0, len(columns), chunk_rows(query)):
        own = torch.arange(span.start, span.stop, device=columns.device)
        yield own, own if rows is None else rows[own], columns[own].clamp(min=0)
