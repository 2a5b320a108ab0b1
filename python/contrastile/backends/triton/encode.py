"""A problem's reductions as the kernels take them: records of device functions, and of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ...engine.row_steps import LOG2E
from ...engine.vectors import ChannelVectors, rounded
from ...engine.vectors import Vectors as EngineVectors
from ...problem import Channel, Phi, Problem, Term
from ...problem.pairs import Op, Pairs
from ...triton_kernels import maps, predicates
from ...triton_kernels.predicates import Predicate
from ...triton_kernels.reductions import Form, Vectors
from ..labels import may_keep_none

# A predicate in postfix order: opcodes, those of leaves with the places of their tensors.
Program = tuple[tuple[int, ...], ...]

PREDICATES = {
    Op.INDEX: predicates.index,
    Op.EQUAL: predicates.equal,
    Op.OVERLAP: predicates.overlap,
    Op.NOT: predicates.negation,
    Op.AND: predicates.conjunction,
    Op.OR: predicates.disjunction,
}
OPERANDS = {Op.NOT: 1, Op.AND: 2, Op.OR: 2}
# What is summed, and its slope.
TERMS = {
    Phi.SOFTPLUS: (maps.softplus, maps.sigmoid),
    Phi.RELU: (maps.relu, maps.step),
    Phi.IDENTITY: (maps.identity, maps.one),
    Phi.SQUARE: (maps.square, maps.double),
}
POWER = (maps.power, maps.power)
LASTING_POWER = (maps.lasting_power, maps.power)


@dataclass(frozen=True, eq=False)
class Encoded:
    """What kernels are compiled for, the numbers that they read, and the tensors that predicates
    refer to by their place.
    """

    forms: tuple[Form, ...]
    vectors: tuple[Vectors, ...]
    data: tuple[Tensor, ...]
    # Of each reduction, whether rows without any pair are nothing unusual.
    may_keep_none: tuple[bool, ...]
    # Smallest and largest sum of class weights of each channel, one after the other, fp64; None
    # where there are no classes.
    class_range: Tensor | None


class Slots:
    """The tensors that predicates read, each once: what two predicates load, they load together."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def of(self, tensor: Tensor) -> int:
        """The place of ``tensor``."""
        for place, known in enumerate(self.tensors):
            if known is tensor:
                return place
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def program(self, pairs: Pairs) -> Program:
        """A predicate's postfix program, with places for tensors."""
        return tuple(
            (int(op), *(self.of(t) for t in tensors if t is not None))
            for op, *tensors in pairs.program()
        )


def encode(problem: Problem, vectors: Sequence[EngineVectors]) -> Encoded:
    """The arguments of every kernel of a run."""
    slots = Slots()
    return Encoded(
        tuple(_form_of(own.reduction, slots) for own in vectors),
        tuple(_vectors(problem, own) for own in vectors),
        tuple(slots.tensors),
        tuple(may_keep_none(own.reduction.pairs) for own in vectors),
        _class_range(problem, vectors),
    )


def _form_of(reduction: Channel | Term, slots: Slots) -> Form:
    phi = reduction.phi if isinstance(reduction, Term) else None
    classes = () if isinstance(reduction, Term) else reduction.class_log_weights
    pairs = None if reduction.pairs is None else slots.program(reduction.pairs)
    members = tuple(slots.program(each) for each, _ in classes)
    return form(phi, may_keep_none(reduction.pairs), pairs, members)


@cache
def form(
    phi: Phi | None, may_be_empty: bool, pairs: Program | None, classes: tuple[Program, ...]
) -> Form:
    """The one record of such a reduction: Triton finds a compiled kernel by its identity."""
    lasting = LASTING_POWER if may_be_empty else POWER
    function, slope = lasting if phi is None else TERMS[phi]
    kept = None if pairs is None else predicate(pairs)
    return Form(function, slope, kept, tuple(predicate(each) for each in classes))


def predicate(program: Program) -> Predicate:
    """A record of device functions, from a postfix program."""
    stack: list[Predicate] = []
    for code, *places in program:
        op = Op(code)
        count = OPERANDS.get(op, 0)
        operands = (*stack[len(stack) - count :], *places)
        del stack[len(stack) - count :]
        stack.append(Predicate(PREDICATES[op], operands))
    (whole,) = stack
    return whole


def _vectors(problem: Problem, own: EngineVectors) -> Vectors:
    if isinstance(own, ChannelVectors):
        high, low = _tensor(problem, own.coef_hi), _tensor(problem, own.coef_lo)
    else:
        high = _tensor(problem, own.coef)
        low = torch.zeros_like(high)
    per_row = high.dim() > 0
    bits = _bits(own)
    return Vectors(
        scale=() if per_row else (high, low),
        row_scale=(high, low) if per_row else (),
        row_offset=_one(own.row_offset),
        col_offset=_one(own.col_offset),
        weights=(_filled(bits, problem.dtype, problem),) if bits else (),
    )


def _one(vector: Tensor | None) -> tuple[Tensor, ...]:
    return () if vector is None else (vector.contiguous(),)


def _bits(own: EngineVectors) -> list[float]:
    """The log-weights of a channel's classes, in bits."""
    classes = own.reduction.class_log_weights if isinstance(own.reduction, Channel) else ()
    return [weight * LOG2E for _, weight in classes]


def _class_range(problem: Problem, vectors: Sequence[EngineVectors]) -> Tensor | None:
    all_bits = [_bits(own) for own in vectors]
    if not any(all_bits):
        return None
    ends = [sum(bound(w, 0.0) for w in bits) for bits in all_bits for bound in (min, max)]
    return _filled(ends, torch.float64, problem)


def _tensor(problem: Problem, value: float | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.contiguous()
    if problem.dtype == torch.float32:
        value = rounded(value)
    return torch.full((), value, dtype=problem.dtype, device=problem.device)


def _filled(values: list[float], dtype: torch.dtype, problem: Problem) -> Tensor:
    """Filled on the device: a copy from the host would wait, and cannot be captured in a graph."""
    vector = torch.zeros(len(values), dtype=dtype, device=problem.device)
    for place, value in enumerate(values):
        if value:
            vector[place].fill_(value)
    return vector
