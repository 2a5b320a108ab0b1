"""Pairs: which (i, j) count. Predicates over O(N + M) data, composed with ``&``, ``|``, ``~``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .part import Part
from .plain import may_be_read


class Op(IntEnum):
    """Opcodes of a predicate's postfix program, the same in every device language."""

    INDEX = 0
    EQUAL = 1
    OVERLAP = 2
    NOT = 3
    AND = 4
    OR = 5
    LESS = 6
    AT_MOST = 7
    WITHIN = 8
    ROW_ABOVE = 9
    COL_ABOVE = 10


class Kind(Enum):
    """What a predicate's vector has to hold."""

    INTEGERS = "contiguous int64"
    REALS = "real numbers"
    FLOATS = "floating point"


class Extent(NamedTuple):
    """A vector that a predicate reads: on axis 0 one entry a row, on axis 1 one a column.

    ``plane``: the number of the plane that it is compared with, if it is.
    """

    name: str
    tensor: Tensor
    axis: int
    kind: Kind = Kind.INTEGERS
    plane: int | None = None


# An opcode, and the vectors that it reads, or a vector and the number of a plane.
Instruction = tuple[Op, Tensor | None, Tensor | int | None]


@dataclass(frozen=True, eq=False)
class Pairs:
    """A set of (i, j), described by O(N + M) data; compose with ``&``, ``|`` and ``~``.

    A new kind of predicate is one subclass: its postfix program, its extents and whether it is
    symmetric; and an opcode, which backends.predicates and each device language evaluate.
    """

    def __and__(self, other: Pairs) -> Pairs:
        return And(self, other) if isinstance(other, Pairs) else NotImplemented

    def __or__(self, other: Pairs) -> Pairs:
        return Or(self, other) if isinstance(other, Pairs) else NotImplemented

    def __invert__(self) -> Pairs:
        return Not(self)

    def program(self) -> Iterator[Instruction]:
        """The predicate as postfix instructions."""
        raise NotImplementedError(type(self).__name__)

    def extents(self) -> Iterator[Extent]:
        """The vectors that it reads, as they were given."""
        raise NotImplementedError(type(self).__name__)

    def among(self, part: Part) -> Pairs:
        """The same of some rows and columns alone."""
        raise NotImplementedError(type(self).__name__)

    @property
    def symmetric(self) -> bool:
        """Whether (i, j) is known to be in the set exactly when (j, i) is; for the self mode."""
        raise NotImplementedError(type(self).__name__)


@dataclass(frozen=True, eq=False)
class Index(Pairs):
    """Row i is paired with column ``columns[i]``; -1 means with none."""

    columns: Tensor

    @staticmethod
    def diagonal(n: int, offset: int = 0, device: torch.device | None = None) -> Diagonal:
        """Row i with column ``i + offset``: the item itself, or its place after gathering."""
        return Diagonal(torch.arange(offset, n + offset, device=device), offset)

    @staticmethod
    def other_view(n: int, device: torch.device | None = None) -> OtherView:
        """Rows i and n + i with each other, of 2 n rows."""
        return OtherView(torch.arange(2 * n, device=device).roll(n))

    def within(self, m: int) -> bool:
        """Whether every column is known, without a look at the values, to be one of ``m``."""
        return False

    def program(self) -> Iterator[Instruction]:
        yield Op.INDEX, self.columns, None

    def extents(self) -> Iterator[Extent]:
        yield Extent("Index.columns", self.columns, 0)

    def among(self, part: Part) -> IndexAmong:
        return IndexAmong(part.within(self.columns))

    @property
    def symmetric(self) -> bool:
        if not may_be_read(self.columns):
            return False
        if len(self.columns) and int(self.columns.max()) >= len(self.columns):
            return False
        own = torch.arange(len(self.columns), device=self.columns.device)
        paired = self.columns >= 0
        return bool((self.columns[self.columns.clamp(min=0)] == own)[paired].all())


@dataclass(frozen=True, eq=False)
class Diagonal(Index):
    """Row i is paired with column ``i + offset``."""

    offset: int

    def within(self, m: int) -> bool:
        return 0 <= self.offset <= m - self.columns.shape[0]

    @property
    def symmetric(self) -> bool:
        return self.offset == 0 or self.columns.shape[0] == 0


@dataclass(frozen=True, eq=False)
class IndexAmong(Index):
    """An index of which only some columns are there: rows without one of these have none."""

    def within(self, m: int) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class OtherView(Index):
    """Of two stacked views of the same items: row i is paired with the item's other view."""

    def within(self, m: int) -> bool:
        return m == self.columns.shape[0]

    @property
    def symmetric(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class RowsWithColumns(Pairs):
    """A predicate of one entry a row and one a column."""

    rows: Tensor
    columns: Tensor
    kind: ClassVar[Kind] = Kind.INTEGERS

    def extents(self) -> Iterator[Extent]:
        name = type(self).__name__
        yield Extent(f"{name}.rows", self.rows, 0, self.kind)
        yield Extent(f"{name}.columns", self.columns, 1, self.kind)

    def among(self, part: Part) -> Pairs:
        return type(self)(part.of_rows(self.rows), part.of_cols(self.columns))

    @property
    def symmetric(self) -> bool:
        return same(self.rows, self.columns)


@dataclass(frozen=True, eq=False)
class Equal(RowsWithColumns):
    """``rows[i] == columns[j]``: same label, instance, group or caption id (int64)."""

    def program(self) -> Iterator[Instruction]:
        yield Op.EQUAL, self.rows, self.columns


@dataclass(frozen=True, eq=False)
class Overlap(RowsWithColumns):
    """``rows[i] & columns[j] != 0``: two 64-bit masks (multi-hot labels) share a bit."""

    def program(self) -> Iterator[Instruction]:
        yield Op.OVERLAP, self.rows, self.columns


@dataclass(frozen=True, eq=False)
class Not(Pairs):
    """The pairs that are not in ``pairs``."""

    pairs: Pairs

    def program(self) -> Iterator[Instruction]:
        yield from self.pairs.program()
        yield Op.NOT, None, None

    def extents(self) -> Iterator[Extent]:
        return self.pairs.extents()

    def among(self, part: Part) -> Pairs:
        return Not(self.pairs.among(part))

    @property
    def symmetric(self) -> bool:
        return self.pairs.symmetric


@dataclass(frozen=True, eq=False)
class _Both(Pairs):
    left: Pairs
    right: Pairs

    def extents(self) -> Iterator[Extent]:
        yield from self.left.extents()
        yield from self.right.extents()

    def among(self, part: Part) -> Pairs:
        return type(self)(self.left.among(part), self.right.among(part))

    @property
    def symmetric(self) -> bool:
        return self.left.symmetric and self.right.symmetric


@dataclass(frozen=True, eq=False)
class And(_Both):
    """The pairs in both sets."""

    def program(self) -> Iterator[Instruction]:
        yield from self.left.program()
        yield from self.right.program()
        yield Op.AND, None, None


@dataclass(frozen=True, eq=False)
class Or(_Both):
    """The pairs in at least one of the sets."""

    def program(self) -> Iterator[Instruction]:
        yield from self.left.program()
        yield from self.right.program()
        yield Op.OR, None, None


def split_holes(pairs: Pairs | None) -> tuple[list[Tensor], Pairs | None]:
    """``pairs`` as (holes, rest): columns kept out by index, and what remains of the predicate.

    A conjunction of ``Not(Index)`` needs no dense evaluation: a pass skips one score a row.
    """
    if isinstance(pairs, Not) and isinstance(pairs.pairs, Index):
        return [pairs.pairs.columns], None
    if isinstance(pairs, And):
        left_holes, left = split_holes(pairs.left)
        right_holes, right = split_holes(pairs.right)
        rest = left if right is None else right if left is None else And(left, right)
        return left_holes + right_holes, rest
    return [], pairs


def same(rows: Tensor, columns: Tensor) -> bool:
    """Whether two vectors are known to be one."""
    return rows is columns or (may_be_read(rows) and torch.equal(rows, columns))
