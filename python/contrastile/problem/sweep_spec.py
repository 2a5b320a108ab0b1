"""A lowered sweep: one hashable value without tensors, beside the list of tensors it names."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .spec import NONE, Sizes, Spec, parse


class PlaneCode(NamedTuple):
    """A plane of dot products, lowered; see :class:`~.planes.Plane`.

    Attributes:
        stop: where its features end; NONE is behind the last, whose number a trace need not know.
        follows: the plane whose accumulation this one goes on with; NONE starts one of its own.
    """

    query: int
    key: int
    start: int
    stop: int
    row_factor: int
    col_factor: int
    follows: int

    @property
    def other(self) -> int:
        """The slot of the columns' embeddings."""
        return self.query if self.key == NONE else self.key

    @property
    def features(self) -> slice:
        """Its features."""
        return slice(self.start, None if self.stop == NONE else self.stop)

    @property
    def vectors(self) -> tuple[int, int]:
        """The slots of the factors of rows and of columns."""
        return self.row_factor, self.col_factor


class MapCode(NamedTuple):
    """A mapped plane, lowered; see :class:`~.planes.Mapped`."""

    map: int
    planes: tuple[int, ...]
    row: int
    col: int

    @property
    def vectors(self) -> tuple[int, int]:
        """The slots of the numbers of rows and of columns."""
        return self.row, self.col


class ReductionCode(NamedTuple):
    """What is reduced of a plane: a spec, whose tensors begin at ``first``.

    Embeddings are the plane's and not among them: the spec's slot 0, and 1 if it has a key.
    """

    plane: int
    first: int
    length: int
    spec: Spec

    @property
    def own(self) -> slice:
        """Where its tensors stand."""
        return slice(self.first, self.first + self.length)


class SweepSpec(NamedTuple):
    """The planes, and what is reduced of them."""

    planes: tuple[PlaneCode | MapCode, ...]
    reductions: tuple[ReductionCode, ...]

    @property
    def caller(self) -> str:
        """The function that errors name."""
        return self.reductions[0].spec.caller

    @property
    def triangle(self) -> bool:
        """Whether only the upper triangle of blocks is computed."""
        return self.reductions[0].spec.triangle

    def base_of(self, plane: int) -> PlaneCode:
        """The plane of dot products that a plane is made of, the first if it is of several."""
        code = self.planes[plane]
        return code if isinstance(code, PlaneCode) else self.base_of(code.planes[0])

    def slab(self, code: PlaneCode) -> slice:
        """The features of a plane that the one before it in its chain does not have."""
        if code.follows == NONE:
            return code.features
        before = self.planes[code.follows]
        assert isinstance(before, PlaneCode)
        return slice(0, 0) if before.stop == NONE else slice(before.stop, code.features.stop)

    def tensors_of(self, reduction: ReductionCode, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors that a reduction's spec names."""
        base = self.base_of(reduction.plane)
        embeddings = [tensors[base.query]]
        if reduction.spec.key != NONE:
            embeddings.append(tensors[base.other])
        return [*embeddings, *tensors[reduction.own]]

    def slot_of(self, reduction: ReductionCode, slot: int) -> int:
        """Where a tensor of a reduction's spec, which is no embedding, stands in the list."""
        return slot - 1 - (reduction.spec.key != NONE) + reduction.first

    def differentiable(self) -> tuple[int, ...]:
        """The slots of what may have a gradient, each once."""
        slots: dict[int, None] = {}
        for code in self.planes:
            own = (
                code.vectors
                if isinstance(code, MapCode)
                else (code.query, code.other, *code.vectors)
            )
            slots |= dict.fromkeys(own)
        for reduction in self.reductions:
            for slot in reduction.spec.differentiable[2:]:
                if slot != NONE:
                    slots[self.slot_of(reduction, slot)] = None
        slots.pop(NONE, None)
        return tuple(slots)

    def on(self, backend: str, tf32: bool) -> SweepSpec:
        """The same for the backend that was chosen."""
        return self._replace(
            reductions=tuple(r._replace(spec=r.spec.on(backend, tf32)) for r in self.reductions)
        )

    def text(self) -> str:
        """All of it in characters, for :func:`parse_sweep`."""
        planes = tuple((isinstance(code, MapCode), *code) for code in self.planes)
        reductions = tuple((*r[:3], r.spec.text()) for r in self.reductions)
        return repr((planes, reductions))


@lru_cache(maxsize=256)
def parse_sweep(text: str) -> SweepSpec:
    """The SweepSpec that :meth:`SweepSpec.text` wrote."""
    planes, reductions = literal_eval(text)
    return SweepSpec(
        tuple(MapCode(*code) if mapped else PlaneCode(*code) for mapped, *code in planes),
        tuple(
            ReductionCode(plane, first, length, parse(spec))
            for plane, first, length, spec in reductions
        ),
    )


def sizes_of(spec: SweepSpec, reduction: ReductionCode, tensors: Sequence[Tensor]) -> Sizes:
    """Sizes as a reduction sees them. Its numbers come from a plane, whatever its embeddings are,
    so all planes are in one dtype: fp64 if any embedding is.
    """
    base = spec.base_of(reduction.plane)
    query, key = tensors[base.query], tensors[base.other]
    double = any(
        tensors[slot].dtype == torch.float64
        for code in spec.planes
        if isinstance(code, PlaneCode)
        for slot in (code.query, code.other)
    )
    dtype = torch.float64 if double else torch.float32
    depth = (query.shape[1] if base.stop == NONE else base.stop) - base.start
    return Sizes(query.shape[0], key.shape[0], depth, dtype, dtype, query.device)
