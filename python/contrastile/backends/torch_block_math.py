"""A sweep's work on a block in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..engine.sweep.block_math import Sums, Target
from ..problem.planes import Map


class Partials(NamedTuple):
    """Derivatives of a map by each plane, and by the number of the row and of the column."""

    planes: list[Tensor]
    row: Tensor
    col: Tensor


class TorchMap(NamedTuple):
    """A map: what row and column are where there is none; its value; its derivatives."""

    absent: float
    value: Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]
    partials: Callable[[Sequence[Tensor], Tensor, Tensor], Partials]


def _radicand(planes: Sequence[Tensor], row: Tensor) -> Tensor:
    left = row - planes[0] * planes[0]
    for plane in planes[1:]:
        left = left - plane * plane
    return left


def _volume(planes: Sequence[Tensor], row: Tensor, col: Tensor) -> Tensor:
    left = _radicand(planes, row)
    # NaN is not above 0, and has to show.
    return torch.where(left <= 0, 0.0, left.sqrt() * col)


def _volume_partials(planes: Sequence[Tensor], row: Tensor, col: Tensor) -> Partials:
    left = _radicand(planes, row)
    none = left <= 0
    root = torch.where(none, 1.0, left).sqrt()
    rate = torch.where(none, 0.0, col / root)
    return Partials([-plane * rate for plane in planes], rate / 2, torch.where(none, 0.0, root))


def _soft_target(planes: Sequence[Tensor], row: Tensor, col: Tensor) -> Tensor:
    target, of = planes
    return (target + row + col).exp() * of


def _soft_target_partials(planes: Sequence[Tensor], row: Tensor, col: Tensor) -> Partials:
    target, of = planes
    weight = (target + row + col).exp()
    value = weight * of
    return Partials([value, weight], value, value)


def _centred(planes: Sequence[Tensor], row: Tensor, col: Tensor) -> Tensor:
    return planes[0] - row - col


def _centred_partials(planes: Sequence[Tensor], row: Tensor, col: Tensor) -> Partials:
    one = torch.ones((), dtype=torch.float64, device=row.device)
    return Partials([one], -one, -one)


MAPS = {
    Map.VOLUME: TorchMap(1.0, _volume, _volume_partials),
    Map.SOFT_TARGET: TorchMap(0.0, _soft_target, _soft_target_partials),
    Map.CENTRED: TorchMap(0.0, _centred, _centred_partials),
}


class TorchBlockMath:
    """Elementwise torch, in fp64 where a number is made of several."""

    def scale(self, block: Tensor, row: Tensor | None, col: Tensor | None, out: Tensor) -> None:
        """out = row_i col_j block."""
        value = block if row is None else block * row[:, None]
        out.copy_(value if col is None else value * col)

    def map(
        self,
        kind: Map,
        planes: Sequence[Tensor],
        row: Tensor | None,
        col: Tensor | None,
        out: Tensor,
    ) -> None:
        """The mapped plane."""
        own = MAPS[kind]
        out.copy_(own.value([p.double() for p in planes], *_numbers(own, row, col, out)))

    def map_gradients(
        self,
        kind: Map,
        planes: Sequence[Tensor],
        row: Tensor | None,
        col: Tensor | None,
        grad: Tensor,
        targets: Sequence[Target | None],
        sums: Sums,
    ) -> None:
        """The gradient through the map."""
        own = MAPS[kind]
        found = own.partials([p.double() for p in planes], *_numbers(own, row, col, planes[0]))
        wide = grad.double()
        for target, partial in zip(targets, found.planes, strict=True):
            if target is not None:
                _give(target, _through(wide, partial))
        if sums.rows is not None:
            sums.rows.add_(_through(wide, found.row).sum(1))
        if sums.cols is not None:
            sums.cols.add_(_through(wide, found.col).sum(0))

    def fold(
        self,
        grad: Tensor,
        value: Tensor,
        row: Tensor | None,
        col: Tensor | None,
        target: Target,
        sums: Sums,
    ) -> None:
        """The gradient of dot products, and the sums that the factors' gradients are made of."""
        wide = grad.double()
        if sums.rows is not None or sums.cols is not None:
            product = wide * value
            if sums.rows is not None:
                sums.rows.add_(product.sum(1))
            if sums.cols is not None:
                sums.cols.add_(product.sum(0))
        if row is not None:
            wide = wide * row[:, None]
        _give(target, wide if col is None else wide * col)


def _numbers(
    own: TorchMap, row: Tensor | None, col: Tensor | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    absent = torch.full((), own.absent, dtype=torch.float64, device=like.device)
    of_rows = absent if row is None else row.double()[:, None]
    return of_rows, absent if col is None else col.double()


def _through(grad: Tensor, partial: Tensor) -> Tensor:
    """Their product; 0 where no gradient comes, though the map may be infinite there."""
    return torch.where(grad == 0, 0.0, grad * partial)


def _give(target: Target, value: Tensor) -> None:
    if target.add:
        target.out.add_(value)
    else:
        target.out.copy_(value)
