"""A problem's reductions as the kernels take them: one tuple of integers, and tuples of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.row_steps import LOG2E
from ...engine.vectors import ChannelVectors, Vectors, rounded
from ...problem import Channel, Problem, Term
from ...problem.pairs import Op, Pairs
from ...triton_kernels.exponents import HEADER, PAIRS
from ..labels import may_keep_none


@dataclass(frozen=True, eq=False)
class Encoded:
    """``code`` (see contrastile.triton_kernels.predicates and .exponents) and what it refers to."""

    code: tuple[int, ...]
    data: tuple[Tensor, ...]
    vectors: tuple[tuple[Tensor, ...], ...]
    # Smallest and largest sum of class weights of each channel, one after the other, fp64; None
    # where there are no classes.
    class_range: Tensor | None


class Slots:
    """The tensors that predicates read, each once."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def of(self, tensor: Tensor) -> int:
        """The place of ``tensor``."""
        for place, known in enumerate(self.tensors):
            if known is tensor:
                return place
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def encode(problem: Problem, vectors: Sequence[Vectors]) -> Encoded:
    """The arguments of every kernel of a run."""
    slots = Slots()
    code = [0] * len(vectors)
    ranges = []
    for position, own in enumerate(vectors):
        reduction = own.reduction
        code[position] = len(code)
        classes = reduction.class_log_weights if isinstance(reduction, Channel) else ()
        header = len(code)
        code += [
            int(_per_row(own)),
            int(own.row_offset is not None),
            int(own.col_offset is not None),
            0,
            int(reduction.phi) if isinstance(reduction, Term) else 0,
            len(classes),
            int(may_keep_none(reduction.pairs)),
            *([0] * len(classes)),
        ]
        if reduction.pairs is not None:
            code[header + PAIRS.value] = len(code)
            code += prefix(reduction.pairs, slots)
        for place, (pairs, _) in enumerate(classes):
            code[header + HEADER.value + place] = len(code)
            code += prefix(pairs, slots)
        bits = [weight * LOG2E for _, weight in classes]
        ranges.append((sum(min(w, 0.0) for w in bits), sum(max(w, 0.0) for w in bits)))
    data = tuple(slots.tensors) or (_any_index(problem),)
    ends = [end for pair in ranges for end in pair]
    weighted = any(
        isinstance(own.reduction, Channel) and own.reduction.class_log_weights for own in vectors
    )
    class_range = _vector(ends, torch.float64, problem) if weighted else None
    return Encoded(tuple(code), data, tuple(_tensors(problem, own) for own in vectors), class_range)


def prefix(pairs: Pairs, slots: Slots) -> list[int]:
    """A predicate in prefix order, from its postfix program."""
    stack: list[list[int]] = []
    for op, *tensors in pairs.program():
        if op is Op.NOT:
            stack.append([int(op), *stack.pop()])
        elif op in (Op.AND, Op.OR):
            right, left = stack.pop(), stack.pop()
            stack.append([int(op), 2 + len(left), *left, *right])
        else:
            stack.append([int(op), *(slots.of(t) for t in tensors if t is not None)])
    (program,) = stack
    return program


def _per_row(own: Vectors) -> bool:
    coef = own.coef_hi if isinstance(own, ChannelVectors) else own.coef
    return isinstance(coef, Tensor) and coef.dim() > 0


def _tensors(problem: Problem, own: Vectors) -> tuple[Tensor, ...]:
    """Coefficient (high, low), row offset, column offset, class weights; any for what is absent."""
    if isinstance(own, ChannelVectors):
        high, low = _tensor(problem, own.coef_hi), _tensor(problem, own.coef_lo)
        classes = own.reduction.class_log_weights
    else:
        high = _tensor(problem, own.coef)
        low, classes = torch.zeros_like(high), ()
    weights = high
    if classes:
        bits = [weight * LOG2E for _, weight in classes]
        weights = _vector(bits, problem.dtype, problem)
    absent = high
    row = absent if own.row_offset is None else own.row_offset.contiguous()
    col = absent if own.col_offset is None else own.col_offset.contiguous()
    return high, low, row, col, weights


def _tensor(problem: Problem, value: float | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.contiguous()
    if problem.dtype == torch.float32:
        value = rounded(value)
    return torch.full((), value, dtype=problem.dtype, device=problem.device)


def _vector(values: list[float], dtype: torch.dtype, problem: Problem) -> Tensor:
    """Filled on the device: a copy from the host would wait, and cannot be captured in a graph."""
    vector = torch.zeros(len(values), dtype=dtype, device=problem.device)
    for place, value in enumerate(values):
        if value:
            vector[place].fill_(value)
    return vector


def _any_index(problem: Problem) -> Tensor:
    return torch.zeros(1, dtype=torch.int64, device=problem.device)
