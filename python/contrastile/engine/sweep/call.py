"""One sweep: its plan of blocks, and the job of each reduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...problem.planes import Map
from ...problem.spec import NONE, Sizes
from ...problem.sweep_spec import MapCode, PlaneCode, ReductionCode, SweepSpec, sizes_of
from ..job import Backend, Job, job_of
from ..operands import Operand
from ..plan import Block, Plan, Tile, plan_of
from ..positives import dots
from .values import PlaneValues, last_of_chains

# Blocks of several planes share the caches: on a CPU five prefixes, N = 8192, took 0.91 times as
# long in 512 x 2048 as in 1024 x 2048, which is best for one matrix of scores.
LOWER = 2


class Call(NamedTuple):
    """What both passes read, and nobody writes to."""

    backend: Backend
    spec: SweepSpec
    sizes: Sizes
    tensors: Sequence[Tensor]
    plan: Plan

    @staticmethod
    def of(backend: Backend, spec: SweepSpec, tensors: Sequence[Tensor], buffers: int) -> Call:
        """With blocks of which ``buffers`` fit the workspace."""
        first = spec.reductions[0]
        sizes = sizes_of(spec, first, tensors)
        tile = backend.tile(first.spec, sizes)
        rows = max(1, tile.rows // LOWER)
        shared = Tile(rows, tile.cols, float(buffers * sizes.dtype.itemsize))
        plan = plan_of(first.spec, sizes, shared)
        strips = tuple(
            tuple(Block(block.rows, block.cols, block.mirrored, 0) for block in strip)
            for strip in plan.strips
        )
        return Call(backend, spec, sizes, tensors, Plan(strips, plan.largest))

    def job(self, reduction: ReductionCode, values: PlaneValues) -> Job:
        """A reduction's job, whose dot products are the plane's numbers."""
        tensors = self.spec.tensors_of(reduction, self.tensors)
        sizes = sizes_of(self.spec, reduction, self.tensors)
        job = job_of(
            self.backend,
            reduction.spec,
            sizes,
            self.plan,
            tensors,
            kept=values.memory(reduction.plane),
        )
        bound = bound_of(self.spec, reduction.plane, self.tensors)
        job = job._replace(given=True, bound=bound, planes=values.memories)
        if reduction.spec.ranks and job.positives is not None:
            job = job._replace(positive=self._positives(reduction, job.positives))
        return job

    def _positives(self, reduction: ReductionCode, columns: Tensor) -> Tensor:
        """The plane's numbers at the positives, which ranks compare with."""
        code, dtype = self.spec.planes[reduction.plane], self.sizes.dtype
        assert isinstance(code, PlaneCode), "ranks of a map have thresholds"
        query, key = (
            Operand(self.tensors[slot].detach()[:, code.features], dtype)
            for slot in (code.query, code.other)
        )
        found = dots(query, key, None, columns, dtype)
        if code.row_factor != NONE:
            found = found * self.tensors[code.row_factor].detach().to(dtype)
        if code.col_factor != NONE and self.sizes.m:
            factor = self.tensors[code.col_factor].detach().to(dtype)
            found = found * factor[columns.clamp(min=0)]
        return found


def buffers_of(spec: SweepSpec, backward: bool) -> int:
    """Blocks that are in memory at once: of each plane; going back also weights, a total of each
    chain of planes, and of planes that maps read their gradients.
    """
    planes = len(spec.planes)
    if not backward:
        return planes
    maps = [code for code in spec.planes if isinstance(code, MapCode)]
    read = {plane for code in maps for plane in code.planes}
    chains = set(last_of_chains(spec).values())
    return planes + 1 + len(chains) + len(read) + len(maps)


def bound_of(spec: SweepSpec, plane: int, tensors: Sequence[Tensor]) -> float | None:
    """A number that no entry of the plane exceeds, by Cauchy and Schwarz; None where only a GPU
    knows, or nobody.
    """
    code = spec.planes[plane]
    if tensors[spec.base_of(plane).query].device.type != "cpu":
        return None
    if isinstance(code, MapCode):
        if code.map != Map.VOLUME:
            return None
        root, own = (
            1.0 if slot == NONE else _greatest(tensors[slot].detach().double())
            for slot in code.vectors
        )
        return _rounded_up(root**0.5 * own)
    sides = (code.query, code.row_factor), (code.other, code.col_factor)
    return _rounded_up(_largest(code, *sides[0], tensors) * _largest(code, *sides[1], tensors))


def _largest(code: PlaneCode, slot: int, factor: int, tensors: Sequence[Tensor]) -> float:
    embeddings = tensors[slot].detach()[:, code.features]
    norms = torch.linalg.vector_norm(embeddings, dim=1, dtype=_wide(embeddings))
    if factor != NONE:
        norms = norms * tensors[factor].detach()
    return _greatest(norms)


def _greatest(numbers: Tensor) -> float:
    return float(numbers.abs().max()) if len(numbers) else 0.0


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _rounded_up(bound: float) -> float:
    """Beyond what rounding of norms and products may add."""
    return bound * (1 + 1e-5)
