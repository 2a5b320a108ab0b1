"""The O(N D) work before the tiles: positives' dot products, and norms that bound the exponents."""

from __future__ import annotations

import torch

from ...triton_kernels import rows, shift
from .context import LINE, SWEEP, Carry, Context, first, programs
from .encode import encode
from .sums import SideSums

FEATURES = 32


def begin(context: Context) -> Carry:
    """Encode the problem, gather the positives' dot products, choose the fixed shifts."""
    run, problem = context.run, context.problem
    device, count = problem.device, len(run.vectors)
    carry = Carry(
        encode(problem, run.vectors),
        context.precision,
        torch.empty(1, dtype=torch.int32, device=device),
        torch.empty(count, dtype=problem.dtype, device=device),
        torch.empty(count, dtype=torch.float64, device=device),
        *SideSums.both(context),
    )
    if run.takes_positives or len(context.forms) == 2:
        _prepare(context, carry)
    return carry


def _prepare(context: Context, carry: Carry) -> None:
    run, problem = context.run, context.problem
    grid = programs(max(problem.n, problem.m))
    norms = None
    if len(context.forms) == 2:
        norms = torch.empty((2, *grid), dtype=problem.dtype, device=problem.device)
    rows.prepare[grid](
        context.query.tensor,
        *context.query.strides,
        problem.n,
        context.key.tensor,
        *context.key.strides,
        problem.m,
        first(problem.positives, carry.flag),
        first(run.positive_dots, carry.shifts),
        first(norms, carry.shifts),
        D=context.query.tensor.shape[1],
        ACC=context.acc,
        DOTS=run.takes_positives,
        NORMS=norms is not None,
        BLOCK=LINE,
        DEPTH=FEATURES,
    )
    if norms is None:
        return
    shift.choose_shifts[(1,)](
        norms,
        norms.shape[1],
        problem.n,
        problem.m,
        carry.encoded.vectors,
        first(carry.encoded.class_range, carry.spans),
        carry.shifts,
        carry.spans,
        carry.flag,
        BLOCK=SWEEP,
    )
