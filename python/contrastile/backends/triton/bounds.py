"""The O(N D) work before the tiles, and the verdict on the fixed shifts after them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.vectors import ChannelVectors
from ...triton_kernels import rows, shift
from .context import LINE, Carry, Context, programs
from .encode import encode
from .operands import Embedding

FEATURES = 32
# Entries that a program over a whole vector takes at a time.
SWEEP = 1024


def begin(context: Context) -> Carry:
    """Encode the problem, gather the positives' dot products, choose the fixed shifts."""
    run, problem = context.run, context.problem
    device, count = problem.device, len(run.vectors)
    carry = Carry(
        encode(problem, run.vectors),
        torch.zeros(1, dtype=torch.int32, device=device),
        torch.empty(count, dtype=problem.dtype, device=device),
        torch.empty(count, dtype=torch.float64, device=device),
    )
    if run.takes_positives:
        _gather_positives(context)
    if context.channels:
        for vectors in context.channels:
            vectors.use_running_shift(problem)
            vectors.keeps_shifts = True
        _choose_shifts(context, carry)
    return carry


def settle(context: Context) -> None:
    """Set the flag where the fixed shifts of any channel cost precision."""
    carry = context.carry
    sides = tuple(
        (position, *side)
        for position, vectors in enumerate(context.channels)
        for side in _sides(context, vectors)
    )
    shift.settle[(1,)](
        sides,
        carry.shifts,
        carry.spans,
        carry.flag,
        CHANNELS=len(context.channels),
        BLOCK=SWEEP,
    )


def _sides(
    context: Context, vectors: ChannelVectors
) -> list[tuple[Tensor | None, Tensor | None, int, int]]:
    """(sums, their shifts, their number, terms in each) of the rows and of the columns."""
    problem, sums, shifts = context.problem, vectors.sums, vectors.shifts
    both = [
        (problem.rows, (sums.rows, shifts.rows, problem.n, problem.m)),
        (problem.columns, (sums.cols, shifts.cols, problem.m, problem.n)),
    ]
    return [side for wanted, side in both if wanted]


def _choose_shifts(context: Context, carry: Carry) -> None:
    problem = context.problem
    query = _norms(context, context.query)
    key = query if context.key is context.query else _norms(context, context.key)
    shift.choose_shifts[(1,)](
        query,
        len(query),
        key,
        len(key),
        problem.n,
        problem.m,
        carry.encoded.vectors,
        carry.encoded.class_range,
        carry.shifts,
        carry.spans,
        carry.flag,
        CODE=carry.encoded.code,
        BLOCK=SWEEP,
    )


def _norms(context: Context, embedding: Embedding) -> Tensor:
    """The largest squared norm of every LINE rows."""
    count, size = embedding.tensor.shape
    grid = programs(count)
    out = torch.empty(grid, dtype=context.problem.dtype, device=context.problem.device)
    rows.square_norms[grid](
        embedding.tensor,
        *embedding.strides,
        count,
        out,
        D=size,
        ACC=context.acc,
        BLOCK=LINE,
        DEPTH=FEATURES,
    )
    return out


def _gather_positives(context: Context) -> None:
    problem = context.problem
    rows.gather_dots[programs(problem.n)](
        context.query.tensor,
        *context.query.strides,
        context.key.tensor,
        *context.key.strides,
        problem.positives,
        problem.n,
        context.run.positive_dots,
        D=problem.d,
        ACC=context.acc,
        BLOCK=LINE,
        DEPTH=FEATURES,
    )
