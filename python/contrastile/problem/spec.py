"""The lowered problem: one hashable value without tensors, beside the list of tensors it names.

A Spec is the key of the plan cache, the argument of the registered ops, and all that a backend
reads of a problem. It names a tensor by its slot, which is its place in the list.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .pairs import Op
from .plain import settled_number

# The slot of a tensor that is not there.
NONE = -1
# Where the embeddings stand.
QUERY = 0

# A predicate in postfix order: an opcode (problem.pairs.Op) and the slots that it reads.
Program = tuple[tuple[int, int, int], ...]


# Opcodes that compare what a row has with what a column has.
COMPARING = frozenset(Op) - {Op.INDEX, Op.NOT, Op.AND, Op.OR}


class Stat(NamedTuple):
    """A channel or a term, lowered: a log-sum-exp, or a sum of a function, over its kept pairs.

    Attributes:
        phi: the function summed (problem.channels.Phi); None for a log-sum-exp.
        factor: multiplies the score.
        holes: slots of columns that are kept out by index, one a row.
        program: the rest of the predicate; empty keeps all other pairs.
        classes: log-weights (nats) that pairs of a class have besides.
        row_offset: slot of a row's log-weight, or of the threshold that is taken off its scores.
        col_offset: slot of a column's log-weight.
    """

    phi: int | None
    factor: float
    holes: tuple[int, ...]
    program: Program
    classes: tuple[tuple[Program, float], ...]
    row_offset: int
    col_offset: int

    def settled(self) -> Stat:
        """With numbers in place of a trace's symbols."""
        classes = tuple([(program, settled_number(weight)) for program, weight in self.classes])
        return self._replace(factor=settled_number(self.factor), classes=classes)

    @property
    def may_keep_none(self) -> bool:
        """Whether rows without any pair are nothing unusual: with labels, of a class of one."""
        return any(op in COMPARING for op, _, _ in self.program)


class Rule(NamedTuple):
    """A lowered :class:`~.row_loss.RowLoss`, whose tensors are slots."""

    name: str
    reduction: str
    share: float
    weights: int
    omega: int
    skip: bool
    some_without: bool
    shows: bool
    row_count: int
    col_count: int

    def settled(self) -> Rule:
        """With numbers in place of a trace's symbols."""
        return self._replace(share=settled_number(self.share))


class Spec(NamedTuple):
    """What to reduce, over which pairs, to which sides; see :class:`~.problem.Problem`."""

    caller: str
    backend: str
    # Whether torch allows fp32 to be multiplied in TF32, where it was lowered.
    tf32: bool
    workspace: int
    triangle: bool
    rows: bool
    columns: bool
    ranks: bool
    scale: float | None
    stats: tuple[Stat, ...]
    rule: Rule | None = None
    key: int = NONE
    scale_slot: int = NONE
    row_bias: int = NONE
    col_bias: int = NONE
    positives: int = NONE
    row_thresholds: int = NONE
    col_thresholds: int = NONE
    row_counts: int = NONE
    col_counts: int = NONE

    @property
    def differentiable(self) -> tuple[int, int, int, int, int]:
        """The slots of what may have a gradient: query, key, scale, row bias, column bias."""
        return QUERY, self.key, self.scale_slot, self.row_bias, self.col_bias

    @property
    def log_sums(self) -> bool:
        """Whether the stats are log-sum-exps, not sums of a function."""
        return self.stats[0].phi is None

    @property
    def gaps(self) -> bool:
        """Whether Jensen's gap of the last log-sum-exp is asked for."""
        return self.row_counts != NONE or self.col_counts != NONE

    @property
    def both_sides(self) -> bool:
        """Whether columns are reduced too, be it as the rows of a triangle."""
        return self.columns or self.triangle

    def on(self, backend: str, tf32: bool) -> Spec:
        """The same for the backend that was chosen."""
        return Spec._make((self.caller, backend, tf32, *self[3:]))

    def text(self) -> str:
        """All of it in characters, for :func:`parse`."""
        rule = None if self.rule is None else tuple(self.rule.settled())
        stats = tuple([tuple(stat.settled()) for stat in self.stats])
        return repr(tuple(self._replace(stats=stats, rule=rule)))  # type: ignore[arg-type]


@lru_cache(maxsize=1024)
def parse(text: str) -> Spec:
    """The Spec that :meth:`Spec.text` wrote."""
    spec = Spec(*literal_eval(text))
    stats = tuple(Stat(*stat) for stat in spec.stats)
    return spec._replace(stats=stats, rule=None if spec.rule is None else Rule(*spec.rule))


class Sizes(NamedTuple):
    """Numbers of rows, columns and features, and what is computed in, on which device."""

    n: int
    m: int
    d: int
    dtype: torch.dtype
    # The narrowest dtype that both embeddings are exact in.
    embedding_dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(spec: Spec, tensors: Sequence[Tensor]) -> Sizes:
        """Of the embeddings among ``tensors``."""
        query = tensors[QUERY]
        key = query if spec.key == NONE else tensors[spec.key]
        (n, d), m = query.shape, key.shape[0]
        own, other = query.dtype, key.dtype
        double = torch.float64 in (own, other)
        return Sizes(
            n,
            m,
            d,
            torch.float64 if double else torch.float32,
            own if own == other else torch.promote_types(own, other),
            query.device,
        )


class Slots:
    """The list of tensors while a problem is lowered; each stands in it once.

    ``planes``: the dtype of what predicates compare with planes.
    """

    def __init__(self, planes: torch.dtype = torch.float32) -> None:
        self.planes = planes
        self.tensors: list[Tensor] = []

    def of(self, tensor: Tensor | None) -> int:
        """The slot of ``tensor``."""
        if tensor is None:
            return NONE
        for slot, known in enumerate(self.tensors):
            if known is tensor:
                return slot
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add(self, tensor: Tensor | None) -> int:
        """A slot of its own, even for a tensor that has one: each use has a gradient of its own."""
        if tensor is None:
            return NONE
        self.tensors.append(tensor)
        return len(self.tensors) - 1
