"""A sweep: several problems over shared planes, in the user's terms and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import NamedTuple

import torch
from torch import Tensor

from .channels import Channel, Term
from .checks import InputError
from .integers import check_integer
from .pairs import Index
from .planes import AnyPlane, Mapped, Plane, check_planes
from .problem import Problem
from .row_loss import RowLoss
from .scores import Scores
from .spec import NONE, Slots
from .sweep_spec import MapCode, PlaneCode, ReductionCode, SweepSpec


@dataclass(frozen=True, eq=False)
class Reduction:
    r"""What is reduced of one plane: log-sum-exps or pair sums of
    :math:`S_{ij} = scale_i V_{ij} + a_i + b_j`.

    Args:
        plane: the number of the plane.
        channels: one to three :class:`~contrastile.problem.Channel`; or
        terms: one to three :class:`~contrastile.problem.Term`.
        scale: float, 0-d tensor or [N].
        row_bias: a [N].
        col_bias: b [M].
        rows: reduce over j, one number a row.
        columns: reduce over i, one number a column.
        positives: as in :func:`~contrastile.ops.log_sum_exp`, as all that follows.
        ranks: as there.
        row_thresholds: as there.
        col_thresholds: as there.
        row_counts: as there.
        col_counts: as there.
        row_loss: as there.
    """

    plane: int = 0
    channels: Sequence[Channel] | None = None
    terms: Sequence[Term] | None = None
    scale: float | Tensor = 1.0
    row_bias: Tensor | None = None
    col_bias: Tensor | None = None
    rows: bool = True
    columns: bool = False
    positives: Tensor | Index | None = None
    ranks: bool = False
    row_thresholds: Tensor | None = None
    col_thresholds: Tensor | None = None
    row_counts: Tensor | None = None
    col_counts: Tensor | None = None
    row_loss: RowLoss | None = None

    def problem(
        self, caller: str, plane: Plane, planes: int, backend: str, workspace: int | None
    ) -> Problem:
        """The checked problem that it is, over scores in place of which it has a plane."""
        if (self.channels is None) == (self.terms is None):
            raise InputError(f"{caller}: a Reduction has either channels or terms")
        scores = Scores.of(caller, plane.query, plane.key, self.scale, self.row_bias, self.col_bias)
        given = self.terms if self.channels is None else self.channels
        assert given is not None
        return Problem.of(
            caller,
            scores,
            given,
            Term if self.channels is None else Channel,
            rows=self.rows,
            columns=self.columns,
            positives=self.positives,
            ranks=self.ranks,
            row_thresholds=self.row_thresholds,
            col_thresholds=self.col_thresholds,
            row_counts=self.row_counts,
            col_counts=self.col_counts,
            backend=backend,
            workspace=workspace,
            row_loss=self.row_loss,
            planes=planes,
        )


class Sweep(NamedTuple):
    """Planes, and the problems whose dot products they are."""

    planes: Sequence[AnyPlane]
    problems: tuple[tuple[int, Problem], ...]

    @classmethod
    def of(
        cls,
        caller: str,
        planes: Sequence[AnyPlane],
        reductions: Sequence[Reduction],
        backend: str,
        workspace: int | None,
    ) -> Sweep:
        """A checked sweep."""
        check_planes(caller, planes)
        if not isinstance(reductions, (list, tuple)) or not reductions:
            raise InputError(f"{caller}: reductions must be a list of at least one Reduction")
        problems = []
        for reduction in reductions:
            if not isinstance(reduction, Reduction):
                got = type(reduction).__name__
                raise TypeError(f"{caller}: reductions must be Reduction, got {got}")
            plane = check_integer(caller, "the plane of a Reduction", reduction.plane)
            if not 0 <= plane < len(planes):
                raise InputError(
                    f"{caller}: there are {len(planes)} planes, a Reduction asks for number {plane}"
                )
            base = _base(planes, plane)
            if reduction.ranks and base is not planes[plane]:
                _check_thresholds(caller, reduction)
            problems.append(
                (plane, reduction.problem(caller, base, len(planes), backend, workspace))
            )
        return cls(planes, tuple(problems))

    @property
    def triangle(self) -> bool:
        """Whether all of it is symmetric, so that the upper triangle of blocks is enough."""
        symmetric = all(isinstance(plane, Plane) and plane.symmetric for plane in self.planes)
        return symmetric and all(problem.triangle for _, problem in self.problems)

    @property
    def dtype(self) -> torch.dtype:
        """What planes are computed in: fp64 if any embedding is."""
        planes = [plane for plane in self.planes if isinstance(plane, Plane)]
        dtypes = {own.dtype for plane in planes for own in (plane.query, plane.other)}
        return torch.float64 if torch.float64 in dtypes else torch.float32

    def lower(self) -> tuple[SweepSpec, list[Tensor]]:
        """The same without tensors, and the tensors."""
        slots = Slots()
        codes: list[PlaneCode | MapCode] = []
        for plane in self.planes:
            if isinstance(plane, Mapped):
                # Not those of a plane's factors, whose gradients are made in another way.
                row, col = slots.add(plane.row), slots.add(plane.col)
                reads = tuple(map(index, plane.planes))
                codes.append(MapCode(int(plane.map), reads, row, col))
            else:
                codes.append(_code(plane, codes, slots))
        reductions, tensors = [], slots.tensors
        for number, problem in self.problems:
            spec, own = problem.lower(self.dtype)
            own = own[1 + (spec.key != NONE) :]
            spec = spec._replace(triangle=self.triangle)
            reductions.append(ReductionCode(number, len(tensors), len(own), spec))
            tensors = [*tensors, *own]
        return SweepSpec(tuple(codes), tuple(reductions)), tensors


def _check_thresholds(caller: str, reduction: Reduction) -> None:
    """What ranks of a mapped plane compare with, as its numbers at the positives come too late."""
    columns = reduction.columns and reduction.col_thresholds is None
    if reduction.row_thresholds is None or columns:
        raise InputError(
            f"{caller}: ranks of a mapped plane need row_thresholds, with columns col_thresholds"
        )


def _code(plane: Plane, codes: list[PlaneCode | MapCode], slots: Slots) -> PlaneCode:
    query, key = slots.of(plane.query), slots.of(plane.key)
    row, col = slots.of(plane.row_factor), slots.of(plane.col_factor)
    start, stop = (0, NONE) if plane.features is None else map(index, plane.features)
    own = PlaneCode(query, key, start, stop, row, col, NONE)
    followed = {code.follows for code in codes if isinstance(code, PlaneCode)}
    for number, code in reversed(list(enumerate(codes))):
        if (
            isinstance(code, PlaneCode)
            and code[:3] == own[:3]
            and number not in followed
            and (stop == NONE or NONE < code.stop <= stop)
        ):
            return own._replace(follows=number)
    return own


def _base(planes: Sequence[AnyPlane], number: int) -> Plane:
    plane = planes[number]
    return plane if isinstance(plane, Plane) else _base(planes, plane.planes[0])
