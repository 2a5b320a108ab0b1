"""The mean of one plane under the softmax of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..problem import (
    Channel,
    InputError,
    Map,
    Mapped,
    Pairs,
    Phi,
    Plane,
    Reduction,
    Scores,
    Term,
)
from ..problem.planes import check_planes
from ..problem.storage import gated
from .stats import ScoreStats
from .sweep import sweep

NAME = "expectation"
OF, UNDER, ONES = range(3)
NEXT_TO_ZERO = 2.0**-60


class Expectation(NamedTuple):
    """Means under softmaxes, and what the softmaxes are divided by.

    Attributes:
        rows: [N], 0 for a row that keeps no pair; None if rows were not asked for.
        columns: [M], likewise.
        row_lse: log-sum-exp of the scaled plane ``under`` over each row's pairs [N], -inf for none.
        col_lse: the same over each column's [M].
        others: the stats of each further reduction.
    """

    rows: Tensor | None
    columns: Tensor | None
    row_lse: Tensor | None
    col_lse: Tensor | None
    others: tuple[ScoreStats, ...] = ()


@gated
def expectation(
    of: Plane,
    under: Plane,
    *,
    scale: float | Tensor = 1.0,
    pairs: Pairs | None = None,
    rows: bool = True,
    columns: bool = False,
    others: Sequence[Reduction] = (),
    backend: str = "auto",
    workspace: int | None = None,
    caller: str = NAME,
) -> Expectation:
    r"""The mean of one plane under the softmax of another, neither of which is ever stored.

    .. math:: E_i = \sum_j p_{ij} V^{of}_{ij},\qquad p_{ij} = \frac{e^{s_i V^{under}_{ij}}}
              {\sum_{j' \in pairs(i)} e^{s_i V^{under}_{ij'}}},\quad j \in pairs(i)

    and the same over i for columns. Differentiable once in all that both planes are made of:
    soft targets of a teacher that may learn too, rows of attention. Two sweeps: the first finds
    the log-sum-exps that powers are taken relative to, the second sums weights and weighted
    numbers. Both sums are of the same rounded powers, so that a relative error of the powers of a
    row leaves its mean alone: in fp32 that would be up to 2^-24 times the largest exponent.

    Args:
        of: V^of, a :class:`~contrastile.problem.Plane` of N rows and M columns.
        under: V^under, likewise. Raw dot products: the factor of a softmax is ``scale``.
        scale: s, a float, 0-d tensor or [N].
        pairs: the pairs that count; None takes all. ``Above`` may compare numbers of plane 0, which
            is ``of``, or of plane 1, ``under`` times the scale.
        rows: the means of rows.
        columns: the means of columns.
        others: further reductions in the second sweep, of plane 0, ``of``, or plane 1, which is
            ``under`` times the scale.
        backend: "auto", "cpu", "triton" or "reference".
        workspace: bytes that all blocks together may take at any time; default 256 MiB,
            on a GPU a 64th of its memory if that is more.
        caller: the function that errors name, for one whose tensors have passed
            :func:`~contrastile.problem.storage.check_storage`.

    Returns:
        an :class:`~contrastile.ops.Expectation`, in fp32, or fp64 if any embedding is.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).
        TypeError: an argument of the wrong type.

    >>> import torch
    >>> from contrastile.ops import expectation
    >>> from contrastile.problem import Plane
    >>> x, teacher = torch.eye(3), torch.eye(3)
    >>> expectation(Plane(x, x), Plane(teacher, teacher), scale=2.0).rows
    tensor([0.7870, 0.7870, 0.7870])
    """
    if not (rows or columns):
        raise InputError(f"{caller}: asks for nothing, set rows=True or columns=True")
    _check(caller, of, under, pairs, others)
    under = _scaled(caller, under, scale)
    sides = [Side(number, pairs) for number, asked in enumerate((rows, columns)) if asked]
    engine: dict[str, Any] = {"backend": backend, "workspace": workspace, "caller": caller}
    learns = _learns(under)
    with torch.no_grad():
        # The plane ``of`` is there only for pairs that its numbers, or plane 1's, decide on.
        planes = [of, under] if _planes_of(pairs) else [under]
        top = Reduction(len(planes) - 1, [Channel(pairs)], rows=rows, columns=columns)
        (tops,) = sweep(planes, [top], **engine)
        lses = [side.of(tops) for side in sides]
        sides = [side.shifted(lse) for side, lse in zip(sides, lses, strict=True)]
        if learns:
            found, _ = _sums(of, under, sides, (), engine)
            sides = [side.centred(own) for side, own in zip(sides, found, strict=True)]
    found, stats = _sums(of, under, sides, others, engine)
    means: list[tuple[Tensor | None, Tensor | None]] = [(None, None), (None, None)]
    for side, sums in zip(sides, found, strict=True):
        means[side.number] = side.mean(sums)
    (row, row_lse), (column, col_lse) = means
    return Expectation(row, column, row_lse, col_lse, stats)


class Sums(NamedTuple):
    """Of each line the sum of weighted numbers, and of weights."""

    numbers: Tensor
    weights: Tensor


class Side(NamedTuple):
    """Rows (0) or columns (1): what is added to their exponents, and taken off their numbers."""

    number: int
    pairs: Pairs | None
    shift: Tensor | None = None
    centre: Tensor | None = None

    def of(self, stats: ScoreStats) -> Tensor:
        return (stats.rows, stats.columns)[self.number][0]

    def shifted(self, lse: Tensor) -> Side:
        """Powers relative to the largest; those of an empty line as they are."""
        return self._replace(shift=torch.where(torch.isneginf(lse), 0.0, -lse))

    def centred(self, sums: Sums) -> Side:
        """Numbers relative to their mean."""
        mean, _ = self.mean(sums)
        return self._replace(centre=mean)

    def vectors(self, own: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """As those of rows and of columns."""
        return (None, own) if self.number else (own, None)

    def reduction(self, plane: int) -> Reduction:
        rows = self.number == 0
        return Reduction(plane, terms=[Term(Phi.IDENTITY, self.pairs)], rows=rows, columns=not rows)

    def mean(self, sums: Sums) -> tuple[Tensor, Tensor]:
        """The mean and the log-sum-exp of each line."""
        empty = sums.weights == 0
        weights = torch.where(empty, 1.0, sums.weights)
        mean = sums.numbers / weights
        assert self.shift is not None
        lse = torch.where(empty, -torch.inf, weights.log() - self.shift)
        return mean if self.centre is None else self.centre + mean, lse


def _sums(
    of: Plane,
    under: Plane,
    sides: Sequence[Side],
    others: Sequence[Reduction],
    engine: dict[str, Any],
) -> tuple[list[Sums], tuple[ScoreStats, ...]]:
    """The sums of each side, and the stats of the others."""
    query, n, m = under.query, under.query.shape[0], under.other.shape[0]
    # The sum of weights is that of weighted ones.
    ones = Plane(query.new_ones(n, 1), query.new_ones(m, 1))
    planes: list[Plane | Mapped] = [of, under, ones]
    reductions = list(others)
    for side in sides:
        numbers = OF
        if side.centre is not None:
            numbers = len(planes)
            planes.append(Mapped(Map.CENTRED, (OF,), *side.vectors(side.centre)))
        for read in (numbers, ONES):
            reductions.append(side.reduction(len(planes)))
            planes.append(Mapped(Map.SOFT_TARGET, (UNDER, read), *side.vectors(side.shift)))
    stats = sweep(planes, reductions, **engine)
    found = stats[len(others) :]
    sums = [
        Sums(side.of(found[2 * place]), side.of(found[2 * place + 1]))
        for place, side in enumerate(sides)
    ]
    return sums, stats[: len(others)]


def _learns(plane: Plane) -> bool:
    tensors = (plane.query, plane.other, plane.row_factor, plane.col_factor)
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _check(
    caller: str, of: Plane, under: Plane, pairs: Pairs | None, others: Sequence[Reduction]
) -> None:
    for name, plane in (("of", of), ("under", under)):
        if not isinstance(plane, Plane):
            raise TypeError(f"{caller}: {name} must be a Plane, got {type(plane).__name__}")
    check_planes(caller, [of, under])
    if not isinstance(others, (list, tuple)) or not all(isinstance(r, Reduction) for r in others):
        raise TypeError(f"{caller}: others must be a list of Reduction, got {others!r}")
    named: list[object] = [*_planes_of(pairs)]
    for other in others:
        named.append(other.plane)
        for parts in (other.channels, other.terms):
            for part in parts if isinstance(parts, (list, tuple)) else ():
                named += _planes_of(getattr(part, "pairs", None))
    for number in named:
        # What is no integer, channel or predicate the sweeps refuse.
        if isinstance(number, int) and number not in (OF, UNDER):
            raise InputError(
                f"{caller}: planes are 0, of, and 1, under times the scale; got number {number}"
            )


def _planes_of(pairs: object) -> list[int]:
    """The numbers of the planes that decide on pairs."""
    extents = pairs.extents() if isinstance(pairs, Pairs) else ()
    return [extent.plane for extent in extents if extent.plane is not None]


def _scaled(caller: str, plane: Plane, scale: float | Tensor) -> Plane:
    """The plane with a scale among its factors."""
    n, query = plane.query.shape[0], plane.query
    scale = Scores.of(caller, query, plane.key, scale).scale
    if not isinstance(scale, Tensor):
        if scale == 1.0:
            return plane
        scale = torch.full((), float(scale), dtype=torch.float64, device=query.device)
    # Of one number the gradient is summed over rows: in fp64, to be rounded once.
    factor = scale if scale.shape == (n,) else scale.reshape(()).double().expand(n)
    if factor.requires_grad:
        # Its gradient is found by dividing by it: for 0 stands what changes no power.
        factor = factor + (factor.detach() == 0) * NEXT_TO_ZERO
    own = plane.row_factor
    return plane._replace(row_factor=factor if own is None else factor * own)
