"""Stats as the kernels take them: records of device functions, and of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...engine.arguments import Argument, rounded
from ...engine.job import Job
from ...engine.row_steps import LOG2E
from ...problem import Phi
from ...problem.pairs import Op
from ...problem.spec import NONE, Program, Stat
from ...triton_kernels import maps, predicates
from ...triton_kernels.predicates import Predicate
from ...triton_kernels.reductions import Form, Split, Vectors

# A predicate in postfix order: opcodes, those of leaves with the places of their tensors.
Placed = tuple[tuple[int, ...], ...]

PREDICATES = {
    Op.INDEX: predicates.index,
    Op.EQUAL: predicates.equal,
    Op.OVERLAP: predicates.overlap,
    Op.LESS: predicates.less,
    Op.AT_MOST: predicates.at_most,
    Op.WITHIN: predicates.within,
    Op.ROW_ABOVE: predicates.row_above,
    Op.COL_ABOVE: predicates.col_above,
    Op.NOT: predicates.negation,
    Op.AND: predicates.conjunction,
    Op.OR: predicates.disjunction,
}
# Those that read a vector, and a plane by its number.
OF_PLANES = (Op.ROW_ABOVE, Op.COL_ABOVE)
OPERANDS = {Op.NOT: 1, Op.AND: 2, Op.OR: 2}
# What is summed, its slope, and both at once where that takes less.
FUNCTIONS = {
    Phi.SOFTPLUS: (maps.softplus, maps.sigmoid, maps.softplus_and_sigmoid),
    Phi.RELU: (maps.relu, maps.step, None),
    Phi.IDENTITY: (maps.identity, maps.one, None),
    Phi.SQUARE: (maps.square, maps.double, None),
    Phi.SIGMOID: (maps.sigmoid, maps.sigmoid_slope, maps.sigmoid_and_slope),
}
POWER = (maps.power, maps.power, None)
NOTHING_TO_SPLIT = Split((), (), ())
LASTING_POWER = (maps.lasting_power, maps.power, None)


class OfPlane(NamedTuple):
    """The numbers of a plane."""

    number: int


# A tensor by its slot, or a plane.
Source = int | OfPlane


class Encoded(NamedTuple):
    """What kernels are compiled for, and the sources of what predicates name by its place here:
    what two predicates load, they load together.
    """

    forms: tuple[Form, ...]
    sources: tuple[Source, ...]


@lru_cache(maxsize=512)
def encode(stats: tuple[Stat, ...]) -> Encoded:
    """Of a problem's stats."""
    sources: list[Source] = []
    forms = tuple([_form_of(stat, sources) for stat in stats])
    return Encoded(forms, tuple(sources))


def _form_of(stat: Stat, sources: list[Source]) -> Form:
    pairs = placed(kept_by(stat), sources)
    classes = tuple([placed(program, sources) for program, _ in stat.classes])
    return form(stat.phi, stat.phi is None and stat.may_keep_none, pairs, classes)


@cache
def form(phi: int | None, may_be_empty: bool, pairs: Placed, classes: tuple[Placed, ...]) -> Form:
    """The one record of such a stat: Triton finds a compiled kernel by its identity."""
    powers = LASTING_POWER if may_be_empty else POWER
    function, slope, both = powers if phi is None else FUNCTIONS[Phi(phi)]
    members = tuple([predicate(program) for program in classes])
    return Form(function, slope, both, predicate(pairs) if pairs else None, members)


def kept_by(stat: Stat) -> Program:
    """The predicate of the pairs that a stat keeps, holes first; nothing keeps all."""
    parts: list[Program] = [((Op.INDEX, slot, NONE), (Op.NOT, NONE, NONE)) for slot in stat.holes]
    if stat.program:
        parts.append(stat.program)
    whole: Program = ()
    for part in parts:
        whole = (*whole, *part, (Op.AND, NONE, NONE)) if whole else part
    return whole


def placed(program: Program, sources: list[Source]) -> Placed:
    """With places for slots and planes; ``sources`` are those met so far."""
    return tuple(
        [(op, *[_place(own, sources) for own in _sources(op, *slots)]) for op, *slots in program]
    )


def _sources(op: int, first: int, second: int) -> list[Source]:
    """What an instruction reads."""
    if op in OF_PLANES:
        return [first, OfPlane(second)]
    return [slot for slot in (first, second) if slot != NONE]


def _place(source: Source, sources: list[Source]) -> int:
    """Where the kernels find it."""
    if source not in sources:
        sources.append(source)
    return sources.index(source)


def vectors_read(job: Job, sources: Sequence[Source]) -> tuple[Tensor, ...]:
    """The tensors among what predicates read."""
    return tuple([job.tensors[own] for own in sources if not isinstance(own, OfPlane)])


def predicate(program: Placed) -> Predicate:
    """A record of device functions."""
    stack: list[Predicate] = []
    for code, *places in program:
        op = Op(code)
        first = len(stack) - OPERANDS.get(op, 0)
        operands = (*stack[first:], *places)
        del stack[first:]
        stack.append(Predicate(PREDICATES[op], operands))
    (whole,) = stack
    return whole


def vectors_of(job: Job) -> tuple[Vectors, ...]:
    """The numbers of each stat."""
    pairs = zip(job.spec.stats, job.arguments, strict=True)
    return tuple([_vectors(job, stat, argument) for stat, argument in pairs])


def _vectors(job: Job, stat: Stat, argument: Argument) -> Vectors:
    scale = _coefficient(job, argument)
    weights = None
    if stat.classes:
        bits = [weight * LOG2E for _, weight in stat.classes]
        weights = _filled(job, bits, job.sizes.dtype)
    per_row = scale[0].dim() > 0
    return Vectors(
        () if per_row else scale,
        scale if per_row else (),
        _one(argument.row_offset),
        _one(argument.col_offset),
        _one(weights),
    )


def _one(vector: Tensor | None) -> tuple[Tensor, ...]:
    return () if vector is None else (vector.contiguous(),)


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


def _coefficient(job: Job, argument: Argument) -> tuple[Tensor, Tensor]:
    """Its high and low parts; of a scale that only the device knows room for them."""
    high, low = argument.high, argument.low
    if isinstance(high, Tensor) and not high.dim():
        return _room(job), _room(job)
    high = _tensor(job, high)
    is_none = not isinstance(low, Tensor) and low == 0.0
    return high, torch.zeros_like(high) if is_none else _tensor(job, low)


def _room(job: Job) -> Tensor:
    return torch.empty((), dtype=job.sizes.dtype, device=job.sizes.device)


def split_of(job: Job, vectors: tuple[Vectors, ...]) -> Split:
    """What there is to multiply and take apart on the device."""
    scale = job.scores.scale
    if not isinstance(scale, Tensor) or scale.dim():
        return NOTHING_TO_SPLIT
    factors = tuple([thirds(argument.per_score) for argument in job.arguments])
    return Split((scale,), factors, tuple([own.scale for own in vectors]))


@lru_cache(maxsize=512)
def thirds(value: float) -> tuple[float, float, float]:
    """Numbers of fp32, as kernels take them, whose sum is an fp64 number."""
    high = rounded(value)
    middle = rounded(value - high)
    return high, middle, value - high - middle


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
