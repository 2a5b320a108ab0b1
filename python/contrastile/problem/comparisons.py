"""Predicates that compare numbers: of rows with those of columns, of planes with limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .checks import InputError, is_number
from .pairs import Extent, Instruction, Kind, Op, Pairs, RowsWithColumns, same
from .part import Part


@dataclass(frozen=True, eq=False)
class Less(RowsWithColumns):
    """``rows[i] < columns[j]``, of numbers of any real dtype, compared in fp64; with NaN false.

    >>> import torch
    >>> from contrastile.problem import Less, Not
    >>> shown_at = torch.tensor([3.0, 1.0, 2.0])
    >>> later = Less(shown_at, shown_at)
    >>> no_earlier = Not(Less(shown_at, torch.tensor([2.5])))
    """

    kind: ClassVar[Kind] = Kind.REALS

    def program(self) -> Iterator[Instruction]:
        yield Op.LESS, doubles(self.rows), doubles(self.columns)

    @property
    def symmetric(self) -> bool:
        return False


@dataclass(frozen=True, eq=False)
class AtMost(RowsWithColumns):
    """``rows[i] <= columns[j]``, of numbers of any real dtype, compared in fp64; with NaN false."""

    kind: ClassVar[Kind] = Kind.REALS

    def program(self) -> Iterator[Instruction]:
        yield Op.AT_MOST, doubles(self.rows), doubles(self.columns)

    @property
    def symmetric(self) -> bool:
        return False


@dataclass(frozen=True, eq=False)
class Within(RowsWithColumns):
    """``|rows[i] - columns[j]| < width``, of numbers of any real dtype, in fp64; with NaN false.

    ``width`` is one number, or one a row. Of two infinite numbers of one sign the difference is
    NaN: they are within no width.
    """

    width: float | Tensor
    kind: ClassVar[Kind] = Kind.REALS

    def __post_init__(self) -> None:
        if not (isinstance(self.width, Tensor) or is_number(self.width)):
            got = type(self.width).__name__
            raise TypeError(f"Within: width must be a number, or a tensor of one a row, got {got}")

    def program(self) -> Iterator[Instruction]:
        rows, width = doubles(self.rows), self.width
        of_rows = doubles(width) if isinstance(width, Tensor) else torch.full_like(rows, width)
        yield Op.WITHIN, torch.stack((rows, of_rows), 1), doubles(self.columns)

    def extents(self) -> Iterator[Extent]:
        yield from super().extents()
        if isinstance(self.width, Tensor):
            yield Extent("Within.width", self.width, 0, self.kind)

    def among(self, part: Part) -> Within:
        width = part.of_rows(self.width) if isinstance(self.width, Tensor) else self.width
        return Within(part.of_rows(self.rows), part.of_cols(self.columns), width)

    @property
    def symmetric(self) -> bool:
        return not isinstance(self.width, Tensor) and same(self.rows, self.columns)


@dataclass(frozen=True, eq=False)
class Above(Pairs):
    r"""A plane's number exceeds a limit: :math:`V_{ij} > rows_i`, or :math:`V_{ij} > columns_j`.

    For :func:`~contrastile.ops.sweep` alone, where there are planes. Limits are rounded to the
    dtype that planes are computed in, and have no gradient; with NaN it is false.

    Args:
        plane: the number of the plane.
        rows: limits [N]; or
        columns: limits [M].
    """

    plane: int
    rows: Tensor | None = None
    columns: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.columns is None):
            raise InputError("Above: limits are one a row or one a column, give one of both")
        if not isinstance(self.plane, int) or isinstance(self.plane, bool):
            got = type(self.plane).__name__
            raise TypeError(f"Above: plane must be the number of a plane, got {got}")

    def program(self) -> Iterator[Instruction]:
        if self.columns is None:
            yield Op.ROW_ABOVE, self.rows, self.plane
        else:
            yield Op.COL_ABOVE, self.columns, self.plane

    def extents(self) -> Iterator[Extent]:
        if self.rows is not None:
            yield Extent("Above.rows", self.rows, 0, Kind.FLOATS, self.plane)
        if self.columns is not None:
            yield Extent("Above.columns", self.columns, 1, Kind.FLOATS, self.plane)

    def among(self, part: Part) -> Above:
        rows, columns = self.rows, self.columns
        return Above(
            self.plane,
            None if rows is None else part.of_rows(rows),
            None if columns is None else part.of_cols(columns),
        )

    @property
    def symmetric(self) -> bool:
        return False


def doubles(numbers: Tensor) -> Tensor:
    """In fp64."""
    return as_read(numbers, torch.float64)


def as_read(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """As a program reads numbers; the same tensor where it is so already."""
    plain = numbers.detach() if numbers.requires_grad else numbers
    return plain.to(dtype).contiguous()
