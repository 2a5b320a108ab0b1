"""A backward pass whose stats were found elsewhere: merged from parts of the scores."""

from __future__ import annotations

import torch
from torch import Tensor

from .job import Job
from .state import State, Vectors


def state_of_stats(
    job: Job, rows: Vectors, cols: Vectors, positive: Tensor | None, has_forms: bool
) -> State:
    """From log-sum-exps in bits, fp64, and the dot products of positives.

    Powers are taken relative to each row's and column's own log-sum-exp, as no shift of all was
    tried; of a device that knows two forms that is the general one.
    """
    dtype, device, stats = job.sizes.dtype, job.sizes.device, len(job.spec.stats)
    if not has_forms:
        shifts = torch.full((stats,), torch.nan, dtype=torch.float64, device=device)
        return State(rows, cols, shifts=shifts, positive=positive)
    return State(
        row_bits=rows,
        col_bits=cols,
        row_tops=tuple([_top(bits, dtype) for bits in rows]),
        col_tops=tuple([_top(bits, dtype) for bits in cols]),
        shifts=torch.zeros(stats, dtype=dtype, device=device),
        flag=torch.ones(1, dtype=torch.int32, device=device),
        positive=positive,
    )


def _top(bits: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(torch.isneginf(bits), 0.0, bits).to(dtype)
