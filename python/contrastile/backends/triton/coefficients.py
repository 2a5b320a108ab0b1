"""The coefficients of G from the upstream gradients, and the power of two that G is stored with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.vectors import ChannelVectors
from ...triton_kernels import upstream
from ...triton_kernels.tile_weights import Factors
from .context import LINE, SWEEP, Context, first, programs

# Up to so many, one program finds the largest in less time than another launch takes the host.
DIRECT = 8 * SWEEP


@dataclass(frozen=True, eq=False)
class Coefficients:
    """What the weights need of each reduction, and of the last channel beside its powers.

    ``unit`` is None where G has the range of the compute dtype.
    """

    factors: tuple[Factors, ...]
    lines: Factors
    unit: Tensor | None


@dataclass(frozen=True, eq=False)
class Entry:
    """One upstream gradient, where it comes from, and where its coefficients go."""

    upstream: Tensor
    of_columns: bool
    channel: int
    bits: Tensor
    tops: Tensor
    out: Tensor


def form_coefficients(context: Context) -> Coefficients:
    """Two launches; one up to DIRECT entries, or where G needs no unit."""
    run, problem, carry = context.run, context.problem, context.carry
    entries = _entries(context)
    lines = _line_entries(context)
    own, entries = entries, [*entries, *(line for line in lines if line is not None)]
    vectors = [entry.upstream for entry in entries]
    of_columns = [int(entry.of_columns) for entry in entries]
    if run.positive_grad is not None:
        vectors.append(run.positive_grad)
        of_columns.append(0)
    length = max(problem.n, problem.m)
    sweeps = programs(length, SWEEP)
    unit = parts = None
    if _needs_unit(context):
        unit = torch.empty((), dtype=problem.dtype, device=problem.device)
    if unit is not None and length > DIRECT:
        parts = torch.empty((len(vectors), *sweeps), dtype=problem.dtype, device=problem.device)
        upstream.largest_entries[sweeps](
            tuple(vectors),
            problem.n,
            problem.m,
            parts,
            OF_COLUMNS=tuple(of_columns),
            BLOCK=SWEEP,
        )
    upstream.coefficients[programs(length)](
        tuple(vectors),
        tuple(entry.bits for entry in entries),
        tuple(entry.tops for entry in entries),
        tuple(entry.out for entry in entries),
        problem.n,
        problem.m,
        carry.shifts,
        carry.flag,
        first(parts, carry.shifts),
        sweeps[0],
        first(unit, carry.shifts),
        CHANNEL=tuple(entry.channel for entry in entries),
        OF_COLUMNS=tuple(of_columns),
        FIXED=False in context.forms,
        GENERAL=True in context.forms,
        TWICE=problem.triangle,
        UNIT=unit is not None,
        DIRECT=parts is None,
        BLOCK=LINE,
        SWEEP=SWEEP,
    )
    of_rows, of_cols = lines[0], lines[0] if problem.triangle else lines[1]
    return Coefficients(_factors(context, own), _of_sides(of_rows, of_cols), unit)


def _needs_unit(context: Context) -> bool:
    """For G in half precision; and for coefficients above a fixed shift, which have up to 127 bits
    of their own beside the upstream gradient's.
    """
    dtype = context.problem.dtype
    fixed = bool(context.channels) and False in context.forms
    return context.run.operand_dtype != dtype or (fixed and dtype == torch.float32)


def _entries(context: Context) -> list[Entry]:
    carry = context.carry
    found = []
    for position, own in enumerate(context.run.vectors):
        both = ((own.upstream.rows, carry.rows), (own.upstream.cols, carry.cols))
        for of_columns, (grad, side) in enumerate(both):
            if grad is None or side is None:
                continue
            grad = grad.contiguous().resolve_neg()
            factor = own.reduction.factor
            if factor != 1.0:
                grad = grad * factor
            is_channel = isinstance(own, ChannelVectors)
            found.append(
                Entry(
                    grad,
                    bool(of_columns),
                    position if is_channel else -1,
                    side.bits[position] if is_channel else grad,
                    side.tops[position] if is_channel else grad,
                    torch.empty_like(grad),
                )
            )
    return found


def _line_entries(context: Context) -> tuple[Entry | None, Entry | None]:
    """The lines of the last channel, which take the unit as a pair sum's coefficients do."""
    last = context.run.vectors[-1]
    if not isinstance(last, ChannelVectors):
        return None, None
    cols = None if context.problem.triangle else last.lines.cols
    return _line_entry(last.lines.rows, False), _line_entry(cols, True)


def _line_entry(line: Tensor | None, of_columns: bool) -> Entry | None:
    if line is None:
        return None
    return Entry(line, of_columns, -1, line, line, torch.empty_like(line))


def _factors(context: Context, entries: list[Entry]) -> tuple[Factors, ...]:
    """Of each reduction; in the self mode columns have the factors of rows."""
    found = []
    todo = iter(entries)
    for own in context.run.vectors:
        rows, cols = (
            next(todo) if grad is not None else None
            for grad in (own.upstream.rows, own.upstream.cols)
        )
        found.append(_of_sides(rows, rows if context.problem.triangle else cols))
    return tuple(found)


def _of_sides(rows: Entry | None, cols: Entry | None) -> Factors:
    """Coefficients and shifts; an empty tuple for what is absent."""
    vectors = [() if entry is None else (entry.out, entry.tops) for entry in (rows, cols)]
    return Factors(*(own[k : k + 1] for own in vectors for k in (0, 1)))
