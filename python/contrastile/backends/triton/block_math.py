"""A sweep's work on a block in Triton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...engine.sweep.block_math import Sums, Target
from ...problem.planes import Map
from ...problem.spec import Sizes
from ...triton_kernels import block_maps, block_math, merge
from ..gpu.scene import current
from .program import LINE, programs
from .start import Start


class Shape(NamedTuple):
    """Of a tile."""

    rows: int
    cols: int


# Few numbers a thread, as those of all planes and their fp64 stay in registers.
SHAPES = {torch.float32: Shape(32, 64), torch.float64: Shape(32, 32)}
WARPS = 8
# Where the derivative by a plane goes.
NOWHERE, THERE, ADDED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class MapForm:
    """What is known of a map when kernels are compiled: its device function, and what the numbers
    of rows and of columns are where there are none.
    """

    function: Any
    absent: float

    def __repr__(self) -> str:
        """By this text Triton keeps compiled kernels."""
        return f"MapForm({self.function.cache_key}, {self.absent})"


MAPS = {
    Map.VOLUME: MapForm(block_maps.volume, 1.0),
    Map.SOFT_TARGET: MapForm(block_maps.soft_target, 0.0),
    Map.CENTRED: MapForm(block_maps.centred, 0.0),
}


class Partials(NamedTuple):
    """Sums of a block's tiles, of rows [tile columns, rows] and of columns [tile rows, columns];
    nothing for what nobody wants.
    """

    rows: tuple[Tensor, ...]
    cols: tuple[Tensor, ...]

    @staticmethod
    def of(shape: torch.Size, wanted: Sums, tile: Shape) -> Partials:
        """Room for them."""
        height, width = shape

        def room(total: Tensor | None, tiles: int, length: int) -> tuple[Tensor, ...]:
            return () if total is None else (total.new_empty(tiles, length),)

        return Partials(
            room(wanted.rows, programs(width, tile.cols), height),
            room(wanted.cols, programs(height, tile.rows), width),
        )


class TritonBlockMath:
    """Tiles of a block, each in a program."""

    def __init__(self, sizes: Sizes) -> None:
        self.device, self.tile = sizes.device, SHAPES[sizes.dtype]

    def scale(self, block: Tensor, row: Tensor | None, col: Tensor | None, out: Tensor) -> None:
        """out = row_i col_j block."""
        self._start(out, block_math.scale_block, {}, block, _one(row), _one(col), out)

    def map(
        self,
        kind: Map,
        planes: Sequence[Tensor],
        row: Tensor | None,
        col: Tensor | None,
        out: Tensor,
    ) -> None:
        """The mapped plane."""
        constants = {"MAP": MAPS[kind]}
        self._start(out, block_math.map_block, constants, tuple(planes), _one(row), _one(col), out)

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
        for number, own in enumerate(_apart(targets)):
            wanted = Sums() if number else sums
            parts = Partials.of(grad.shape, wanted, self.tile)
            self._start(
                grad,
                block_math.map_gradients,
                {"MAP": MAPS[kind], "TARGETS": tuple([_place(target) for target in own])},
                tuple(planes),
                _one(row),
                _one(col),
                grad,
                tuple([grad if target is None else target.out for target in own]),
                *parts,
            )
            self._add(parts, wanted, grad)

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
        parts = Partials.of(grad.shape, sums, self.tile)
        constants = {"ADD": target.add}
        vectors = _one(row), _one(col)
        self._start(grad, block_math.fold, constants, grad, value, *vectors, target.out, *parts)
        self._add(parts, sums, grad)

    def _start(
        self, block: Tensor, kernel: Any, constants: dict[str, Any], *arguments: Any
    ) -> None:
        """One program a tile."""
        height, width = block.shape
        dtypes = _dtypes(arguments)
        start = _start_of(kernel, tuple(constants.items()), dtypes, width, self.tile, self.device)
        tiles = programs(height, self.tile.rows) * programs(width, self.tile.cols)
        with current(self.device):
            start(tiles, *arguments, height, width, width)

    def _add(self, parts: Partials, sums: Sums, absent: Tensor) -> None:
        """Put sums of tiles where they belong."""
        if sums.rows is None and sums.cols is None:
            return
        sides: list[Any] = []
        for part, total in zip(parts, sums, strict=True):
            if total is None:
                sides += [absent, (absent,), 0, 0, 0]
            else:
                sides += [part[0], (total,), 0, len(total), len(part[0])]
        own = {"ROWS": sums.rows is not None, "COLS": sums.cols is not None, "BLOCK": LINE}
        lengths = [len(total) for total in sums if total is not None]
        start = _small_start(merge.add_partials, tuple(own.items()), absent.dtype, self.device)
        with current(self.device):
            start(programs(max(lengths)), *sides)


@lru_cache(maxsize=512)
def _start_of(
    kernel: Any,
    constants: tuple[tuple[str, Any], ...],
    dtypes: tuple[Any, ...],
    width: int,
    tile: Shape,
    device: torch.device,
) -> Start:
    """The launch of a kernel; all that it depends on beside the addresses of its tensors."""
    return Start(kernel, {"num_warps": WARPS}, **dict(constants), ROWS=tile.rows, COLS=tile.cols)


@lru_cache(maxsize=64)
def _small_start(
    kernel: Any, constants: tuple[tuple[str, Any], ...], dtype: torch.dtype, device: torch.device
) -> Start:
    return Start(kernel, **dict(constants))


def _dtypes(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Of tensors, alone and in tuples."""
    return tuple([own.dtype if isinstance(own, Tensor) else _dtypes(own) for own in arguments])


def _one(vector: Tensor | None) -> tuple[Tensor, ...]:
    return () if vector is None else (vector,)


def _place(target: Target | None) -> int:
    if target is None:
        return NOWHERE
    return ADDED if target.add else THERE


def _apart(targets: Sequence[Target | None]) -> list[list[Target | None]]:
    """The targets by launches, in none of which two are one memory: what a thread of a kernel has
    stored, others of it need not see.
    """
    launches: list[list[Target | None]] = [[None] * len(targets)]
    for place, target in enumerate(targets):
        if target is not None:
            at = target.out.data_ptr()
            if any(own is not None and own.out.data_ptr() == at for own in launches[-1]):
                launches.append([None] * len(targets))
            launches[-1][place] = target
    return launches
