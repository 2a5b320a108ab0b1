"""Stats as the kernels take them: one tuple of integers, and tuples of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...engine.arguments import Argument, rounded
from ...engine.job import Job
from ...engine.row_steps import LOG2E
from ...problem.pairs import Op
from ...problem.spec import NONE, Program, Spec, Stat
from ...triton_kernels.exponents import HEADER, PAIRS

StatVectors = tuple[tuple[Tensor, ...], ...]


class Code(NamedTuple):
    """``numbers`` (see contrastile.triton_kernels.predicates and .exponents), and the slots of the
    tensors that they refer to.
    """

    numbers: tuple[int, ...]
    slots: tuple[int, ...]


def code_of(spec: Spec, per_row: bool) -> Code:
    """Of a problem; ``per_row``: each row has a scale of its own."""
    return _code(spec.stats, spec.row_bias != NONE, spec.col_bias != NONE, per_row)


@lru_cache(maxsize=512)
def _code(stats: tuple[Stat, ...], row_bias: bool, col_bias: bool, per_row: bool) -> Code:
    slots: list[int] = []
    code = [0] * len(stats)
    for place, stat in enumerate(stats):
        header = code[place] = len(code)
        code += [
            int(per_row),
            int(row_bias or stat.row_offset != NONE),
            int(col_bias or stat.col_offset != NONE),
            0,
            stat.phi or 0,
            len(stat.classes),
            int(stat.phi is None and stat.may_keep_none),
            *([0] * len(stat.classes)),
        ]
        pairs = pairs_of(stat, slots)
        if pairs:
            code[header + PAIRS.value] = len(code)
            code += pairs
        for number, (program, _) in enumerate(stat.classes):
            code[header + HEADER.value + number] = len(code)
            code += prefix(program, slots)
    return Code(tuple(code), tuple(slots))


def pairs_of(stat: Stat, slots: list[int]) -> list[int]:
    """The predicate of the pairs that a stat keeps, in prefix order; nothing keeps all."""
    parts = [[int(Op.NOT), int(Op.INDEX), _place(slot, slots)] for slot in stat.holes]
    if stat.program:
        parts.append(prefix(stat.program, slots))
    if not parts:
        return []
    left, *others = parts
    for right in others:
        left = [int(Op.AND), 2 + len(left), *left, *right]
    return left


def prefix(program: Program, slots: list[int]) -> list[int]:
    """A predicate in prefix order, from its postfix program; ``slots`` are those met so far."""
    stack: list[list[int]] = []
    for op, *own in program:
        if op == Op.NOT:
            stack.append([op, *stack.pop()])
        elif op in (Op.AND, Op.OR):
            right, left = stack.pop(), stack.pop()
            stack.append([op, 2 + len(left), *left, *right])
        else:
            stack.append([op, *(_place(slot, slots) for slot in own if slot != NONE)])
    (found,) = stack
    return found


def _place(slot: int, slots: list[int]) -> int:
    """Where the kernels find the tensor of a slot."""
    if slot not in slots:
        slots.append(slot)
    return slots.index(slot)


def vectors_of(job: Job) -> StatVectors:
    """Of each stat the coefficient (high, low), row offset, column offset, class weights.

    A kernel takes a tensor for each, so one that is absent is stood in for by another.
    """
    pairs = zip(job.spec.stats, job.arguments, strict=True)
    return tuple([_vectors(job, stat, argument) for stat, argument in pairs])


def _vectors(job: Job, stat: Stat, argument: Argument) -> tuple[Tensor, ...]:
    high = _tensor(job, argument.high)
    is_none = not isinstance(argument.low, Tensor) and argument.low == 0.0
    low = torch.zeros_like(high) if is_none else _tensor(job, argument.low)
    weights = high
    if stat.classes:
        bits = [weight * LOG2E for _, weight in stat.classes]
        weights = _filled(job, bits, job.sizes.dtype)
    row, col = (
        high if offset is None else offset.contiguous()
        for offset in (argument.row_offset, argument.col_offset)
    )
    return high, low, row, col, weights


def class_range(job: Job) -> Tensor | None:
    """The smallest and the largest sum of class weights of each stat, one after the other, fp64;
    None where there are no classes.
    """
    if not any(stat.classes for stat in job.spec.stats):
        return None
    ends = []
    for stat in job.spec.stats:
        bits = [weight * LOG2E for _, weight in stat.classes]
        ends += [sum(min(w, 0.0) for w in bits), sum(max(w, 0.0) for w in bits)]
    return _filled(job, ends, torch.float64)


def _tensor(job: Job, value: float | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.contiguous()
    sizes = job.sizes
    if sizes.dtype == torch.float32:
        value = rounded(value)
    return torch.full((), value, dtype=sizes.dtype, device=sizes.device)


def _filled(job: Job, values: Sequence[float], dtype: torch.dtype) -> Tensor:
    """On the device: a copy from the host would wait, and cannot be captured in a graph."""
    vector = torch.zeros(len(values), dtype=dtype, device=job.sizes.device)
    for place, value in enumerate(values):
        if value:
            vector[place].fill_(value)
    return vector
