"""Planes: matrices that a sweep computes block by block, of dot products or mapped from others."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from torch import Tensor

from .checks import InputError, check_embedding, check_same_size, check_vector
from .integers import check_integer_sequence


class Map(IntEnum):
    """A function of planes, taken pair by pair, and of a number a row and a number a column."""

    VOLUME = 0
    SOFT_TARGET = 1
    CENTRED = 2


# How many planes each reads, at least and at most; and what row and column are where not given.
READS = {Map.VOLUME: (1, 7), Map.SOFT_TARGET: (2, 2), Map.CENTRED: (1, 1)}


class Plane(NamedTuple):
    r""":math:`V_{ij} = r_i\, c_j \langle q_i, k_j \rangle`, over a span of features.

    Planes of the same ``query`` and ``key`` whose spans start at one feature share one accumulation
    along the features: all prefixes of an embedding cost the products of the longest.

    Args:
        query: q [N, D].
        key: k [M, D]; None is ``query`` itself.
        row_factor: r [N] or None for 1.
        col_factor: c [M] or None for 1.
        features: (start, stop) of the features; None takes all.
    """

    query: Tensor
    key: Tensor | None = None
    row_factor: Tensor | None = None
    col_factor: Tensor | None = None
    features: tuple[int, int] | None = None

    @property
    def other(self) -> Tensor:
        """The embeddings of the columns."""
        return self.query if self.key is None else self.key

    @property
    def span(self) -> tuple[int, int]:
        """(start, stop) of the features."""
        return (0, self.query.shape[1]) if self.features is None else self.features

    @property
    def symmetric(self) -> bool:
        """Whether (i, j) is (j, i)."""
        return self.key is None and self.row_factor is self.col_factor


class Mapped(NamedTuple):
    r"""A plane whose numbers are made of those of planes before it.

    * ``Map.VOLUME``: :math:`c_j \sqrt{r_i - \sum_m V^m_{ij}{}^2}`, 0 (and without gradient) where
      the radicand is not positive: the volume that vector i spans with the orthonormal vectors j,
      whose own is :math:`c_j`.
    * ``Map.SOFT_TARGET``: :math:`e^{V^0_{ij} + r_i + c_j}\, V^1_{ij}`: with
      :math:`r_i = -\log\sum_j e^{V^0_{ij}}` what a pair adds to the mean of the second plane under
      the softmax of the first.
    * ``Map.CENTRED``: :math:`V^0_{ij} - r_i - c_j`.

    Args:
        map: which.
        planes: the numbers of the planes that it reads.
        row: r [N]; None is 1 for a volume, 0 for the others.
        col: c [M]; likewise.
    """

    map: Map
    planes: tuple[int, ...]
    row: Tensor | None = None
    col: Tensor | None = None


AnyPlane: TypeAlias = Plane | Mapped


def check_planes(caller: str, planes: Sequence[AnyPlane]) -> tuple[int, int]:
    """Each is one that can be computed, of one shape, which is returned: rows and columns."""
    if not isinstance(planes, (list, tuple)) or not planes:
        raise InputError(f"{caller}: planes must be a list of at least one Plane")
    first = planes[0]
    if not isinstance(first, Plane):
        raise InputError(f"{caller}: the first plane must be a Plane, got {type(first).__name__}")
    check_embedding(caller, "planes[0].query", first.query)
    if first.key is not None:
        check_embedding(caller, "planes[0].key", first.key)
    n, m = first.query.shape[0], first.other.shape[0]
    for number, plane in enumerate(planes):
        name = f"planes[{number}]"
        if isinstance(plane, Plane):
            _check_plane(caller, name, plane, n, m)
        elif isinstance(plane, Mapped):
            _check_mapped(caller, name, plane, number, n, m)
        else:
            got = type(plane).__name__
            raise TypeError(f"{caller}: {name} must be a Plane or a Mapped, got {got}")
    return n, m


def _check_plane(caller: str, name: str, plane: Plane, n: int, m: int) -> None:
    check_embedding(caller, f"{name}.query", plane.query)
    if plane.key is not None:
        check_embedding(caller, f"{name}.key", plane.key)
        check_same_size(caller, **{f"{name}.query": plane.query, f"{name}.key": plane.key})
    rows, columns = plane.query.shape[0], plane.other.shape[0]
    if (rows, columns) != (n, m):
        raise InputError(
            f"{caller}: all planes need the same rows and columns, ({n}, {m}) as planes[0] has, "
            f"got {name} of ({rows}, {columns})"
        )
    _check_factors(
        caller, name, ("row_factor", plane.row_factor, n), ("col_factor", plane.col_factor, m)
    )
    span = check_integer_sequence(caller, f"{name}.features", plane.span)
    if len(span) != 2:
        raise InputError(f"{caller}: {name}.features must be (start, stop), got {span}")
    start, stop = span
    if not 0 <= start <= stop <= plane.query.shape[1]:
        raise InputError(
            f"{caller}: {name}.features must lie within the {plane.query.shape[1]} features, "
            f"got ({start}, {stop})"
        )


def _check_mapped(caller: str, name: str, plane: Mapped, number: int, n: int, m: int) -> None:
    if not isinstance(plane.map, Map):
        raise TypeError(f"{caller}: {name}.map must be a Map, got {plane.map!r}")
    reads = check_integer_sequence(caller, f"{name}.planes", plane.planes)
    least, most = READS[plane.map]
    if not least <= len(reads) <= most:
        raise InputError(
            f"{caller}: {plane.map.name} reads {least} to {most} planes, {name} names {len(reads)}"
        )
    if not all(0 <= read < number for read in reads):
        raise InputError(f"{caller}: {name} reads planes that stand before it, got {reads}")
    _check_factors(caller, name, ("row", plane.row, n), ("col", plane.col, m))


def _check_factors(caller: str, name: str, *factors: tuple[str, Tensor | None, int]) -> None:
    for own, factor, length in factors:
        if factor is not None:
            check_vector(caller, f"{name}.{own}", factor, length)
