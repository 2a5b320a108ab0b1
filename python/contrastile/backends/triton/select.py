"""Selections in Triton: no block of scores is ever stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ...engine.job import Job
from ...engine.picked import Picked
from ...triton_kernels import select
from ..gpu.scene import Scene
from .device import Device
from .encode import Source, kept_by, placed, predicate, vectors_read
from .launch import Launch, Purpose
from .operands import as_triton, matrix
from .precision import precision
from .program import Tiles, program_of, programs
from .start import Start

# Columns of a row that a program holds in registers; of more, the scores are walked over again.
HELD = 32
# Programs for each multiprocessor: the columns of a row are shared among several where there are
# few rows.
PER_PROCESSOR = 2


class TritonSelector:
    """Bound to a job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.scene = Scene.of(job)
        self.program = program_of(self.scene)
        sources: list[Source] = []
        pairs = placed(kept_by(job.spec.stats[0]), sources)
        self._predicate = predicate(pairs) if pairs else None
        self._data = vectors_read(job, sources)

    def top_k(self, k: int) -> Picked:
        """The first ``k`` columns of each row, in their order."""
        found: list[Picked] = []
        if self.job.sizes.n == 0 or self.job.sizes.m == 0:
            return Picked.none(self.job.sizes, k)
        for begin in range(0, k, HELD):
            found.append(self._next(min(HELD, k - begin), found[-1] if found else None))
        return Picked(*(torch.cat(parts, 1) for parts in zip(*found, strict=True)))

    def group_max(self, starts: Tensor) -> Picked:
        """The first of each group's columns."""
        sizes, groups = self.job.sizes, starts.shape[0] - 1
        picked = Picked.none(sizes, groups)
        if picked.values.numel() == 0 or sizes.m == 0:
            return picked
        # Tiles are no wider than groups are on average, but for what tensor cores take at least.
        width = max(_power_of_two(-(-sizes.m // groups)), 16)
        wide = self.program.launch(Purpose.GROUP_MAX)
        launch = replace(wide, cols=min(wide.cols, width))
        tiles = self._tiles(select.group_max, launch, GROUP=launch.group)
        count = programs(sizes.n, launch.rows) * groups
        self._start(tiles, count, groups, self._data, starts, *picked)
        return picked

    def _next(self, count: int, before: Picked | None) -> Picked:
        """The first ``count`` columns behind the last of ``before``."""
        sizes, held = self.job.sizes, max(_power_of_two(count), 2)
        launch = self.program.launch(Purpose.TOP_K)
        if before is not None and self.program.device.arch.startswith("sm_"):
            # What comes behind others takes registers too: 64 rows spill 48 bytes on sm_80. On
            # GPUs of AMD it is 32 rows that spill, 107 bytes.
            launch = replace(launch, rows=max(launch.rows // 2, 16))
        tiles = self._tiles(select.top_k, launch, K=held, first=before is None)
        row_tiles = programs(sizes.n, launch.rows)
        wanted = programs(PER_PROCESSOR * self.program.device.processors, row_tiles)
        step = launch.cols * programs(programs(sizes.m, launch.cols), wanted)
        parts = programs(sizes.m, step)
        found = Picked.none(sizes, parts * held)
        after = () if before is None else tuple([own[:, -1].contiguous() for own in before])
        self._start(tiles, row_tiles * parts, step, self._data, after, *found)
        return _in_order(found, count)

    def _tiles(
        self, kernel: Callable[..., None], launch: Launch, first: bool = True, **constants: int
    ) -> Tiles:
        """The launch of a kernel; ``first``: no columns were picked before."""
        program, job = self.program, self.job
        key = "select", kernel, launch, first, *constants.values()
        found = program.tiles.get(key)
        if found is None:
            start = Start(
                kernel,
                _options(launch, program.device, job.operand_dtype),
                PREDICATE=self._predicate,
                D=job.sizes.d,
                PRECISION=precision(job.operand_dtype, program.device.arch, job.spec.tf32),
                ACC=as_triton(job.sizes.dtype),
                DESCRIPTORS=launch.descriptors,
                ROWS=launch.rows,
                COLS=launch.cols,
                DEPTH=launch.depth,
                **constants,
            )
            found = program.tiles[key] = Tiles(launch, 0, start)
        return found

    def _start(self, tiles: Tiles, count: int, *arguments: object) -> None:
        launch, sizes, scene = tiles.launch, self.job.sizes, self.scene
        query, key = scene.query, scene.key
        with scene.on_device():
            tiles.start(
                count,
                matrix(query, launch, launch.rows, launch.depth),
                matrix(key, launch, launch.cols, launch.depth),
                *query.stride(),
                *key.stride(),
                *(0, sizes.n, 0, sizes.m),
                *arguments,
            )


def _in_order(found: Picked, count: int) -> Picked:
    """The first ``count`` of each row, by value and then by column."""
    columns, order = found.columns.sort(dim=1)
    ranked = found.values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return Picked(ranked.values[:, :count], columns.gather(1, ranked.indices[:, :count]))


def _options(launch: Launch, device: Device, dtype: torch.dtype) -> dict[str, int]:
    """The compiler's options. Unless it is told that it may take all registers, ptxas keeps a few
    bytes in memory so that more programs run at once: of fp32 and fp64, and on sm_100 of tiles that
    its tensor cores take. (Of half precision on sm_80 it spills because it is told.)
    """
    told = dtype.itemsize > 2 or (device.arch == "sm_100" and launch.rows == 64)
    every = {"maxnreg": 255} if told and device.arch.startswith("sm_") else {}
    return launch.options() | every


def _power_of_two(count: int) -> int:
    """No less than ``count``."""
    return 1 << (count - 1).bit_length()
