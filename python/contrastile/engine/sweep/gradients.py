"""From weights of reductions to gradients: through maps, then by the products that planes are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...problem.planes import Map
from ...problem.spec import NONE
from ...problem.sweep_spec import MapCode, PlaneCode, ReductionCode, SweepSpec
from ..job import Job, Weigher
from ..plan import Block
from ..products import add_product, add_sums
from ..spans import rows_of
from .block_math import BlockMath, Sums, Target
from .call import Call
from .values import PlaneValues, last_of_chains

Factor = float | Tensor


class Needs(NamedTuple):
    """Which gradients are asked for."""

    spec: SweepSpec
    # By slot.
    wanted: tuple[bool, ...]
    # By plane: whether anything that it is made of has one.
    planes: tuple[bool, ...]

    @staticmethod
    def of(spec: SweepSpec, wanted: Sequence[bool]) -> Needs:
        """From whether each tensor of the sweep wants its own."""
        planes: list[bool] = []
        for code in spec.planes:
            slots = (code.query, code.other) if isinstance(code, PlaneCode) else ()
            own = any(slot != NONE and wanted[slot] for slot in (*slots, *code.vectors))
            read = isinstance(code, MapCode) and any(planes[plane] for plane in code.planes)
            planes.append(own or read)
        return Needs(spec, tuple(wanted), tuple(planes))

    def slot(self, reduction: ReductionCode, slot: int) -> int:
        """Where a reduction's tensor stands if its gradient is wanted, else NONE."""
        if slot == NONE:
            return NONE
        own = self.spec.slot_of(reduction, slot)
        return own if self.wanted[own] else NONE

    def scale(self, reduction: ReductionCode) -> bool:
        """Whether that of a reduction's scale is wanted."""
        return self.slot(reduction, reduction.spec.scale_slot) != NONE

    def biases(self, reduction: ReductionCode) -> tuple[int, int]:
        """The slots of a reduction's biases, where theirs are."""
        spec = reduction.spec
        return self.slot(reduction, spec.row_bias), self.slot(reduction, spec.col_bias)

    def of_reduction(self, reduction: ReductionCode) -> bool:
        """Whether its weights are needed at all."""
        others = self.scale(reduction) or self.biases(reduction) != (NONE, NONE)
        return others or self.planes[reduction.plane]


class Weighed(NamedTuple):
    """A reduction in the backward pass."""

    code: ReductionCode
    job: Job
    weigher: Weigher


class Share(NamedTuple):
    """A part of dL/dV of a plane in a block: ``factor`` times ``grad``."""

    grad: Tensor
    factor: Factor


class Gradients:
    """Accumulators: of embeddings in the compute dtype, of vectors in fp64."""

    def __init__(self, call: Call, values: PlaneValues, math: BlockMath, needs: Needs) -> None:
        self._call, self._values, self._math, self._needs = call, values, math, needs
        spec, dtype = call.spec, call.sizes.dtype
        self._found: dict[int, Tensor] = {}
        for slot in spec.differentiable():
            if needs.wanted[slot]:
                like = call.tensors[slot]
                exact = dtype if like.dim() == 2 else torch.float64
                self._found[slot] = torch.zeros(like.shape, dtype=exact, device=like.device)
        self._last = last_of_chains(spec)
        self._rooms: dict[str, Tensor] = {}

    def add_block(self, block: Block, reductions: Sequence[Weighed]) -> None:
        """The weights of a block, and all that follows from them."""
        # By plane what maps of it handed on; and the chains whose totals are begun.
        mapped: dict[int, Share] = {}
        begun: set[int] = set()
        for number, code in reversed(list(enumerate(self._call.spec.planes))):
            for share in self._shares(number, block, reductions, mapped):
                if isinstance(code, MapCode):
                    self._through_map(number, code, block, share, mapped)
                else:
                    self._fold(number, code, block, share, begun)
            if isinstance(code, PlaneCode) and self._last[number] in begun:
                self._add_products(code, block, self._room(f"total {self._last[number]}", block))

    def _shares(
        self, number: int, block: Block, reductions: Sequence[Weighed], mapped: dict[int, Share]
    ) -> Iterator[Share]:
        """The parts of a plane's gradient, each to be used before the next is made: the weights of
        all reductions are in the same memory.
        """
        if number in mapped:
            yield mapped[number]
        for own in reductions:
            if own.code.plane == number:
                grad = own.weigher.weights(block)
                self._add_biases(own, block, grad)
                if self._needs.planes[number]:
                    yield self._share(own, block, grad)

    def finish(self, reductions: Sequence[Weighed]) -> list[Tensor | None]:
        """The gradients by slot, as what they are of."""
        for own in reductions:
            slot = self._needs.slot(own.code, own.code.spec.scale_slot)
            products = own.weigher.products() if slot != NONE else None
            if products is not None:
                found = self._found[slot]
                each = own.job.scores.row_scale is not None
                found += (products if each else products.sum()).view(found.shape)
        self._divide_by_factors()
        out: list[Tensor | None] = [None] * len(self._call.tensors)
        for slot, found in self._found.items():
            out[slot] = found.to(self._call.tensors[slot].dtype)
        return out

    def _share(self, own: Weighed, block: Block, grad: Tensor) -> Share:
        """A reduction's weights are dL/dS, of S = scale V."""
        scores, unit = own.job.scores, own.weigher.unit
        factor: Factor = 1.0
        if scores.row_scale is not None:
            self._math.scale(grad, scores.row_scale[block.rows].to(grad.dtype), None, grad)
        else:
            factor = scores.scale
        return Share(grad, factor if unit is None else factor / unit)

    def _add_biases(self, own: Weighed, block: Block, grad: Tensor) -> None:
        row, col = self._needs.biases(own.code)
        if row == NONE and col == NONE:
            return
        of_rows, of_cols = (
            None
            if slot == NONE
            else torch.zeros(len_of(span), dtype=torch.float64, device=grad.device)
            for slot, span in ((row, block.rows), (col, block.cols))
        )
        add_sums(grad, of_rows, of_cols)
        unit = own.weigher.unit
        for slot, span, sums in ((row, block.rows, of_rows), (col, block.cols, of_cols)):
            if sums is not None:
                rows_of(self._found[slot], span).add_(sums if unit is None else sums / unit)

    def _through_map(
        self, number: int, code: MapCode, block: Block, share: Share, mapped: dict[int, Share]
    ) -> None:
        """Hand on the gradient of a mapped plane to those that it reads."""
        planes = [self._values.of(plane, block) for plane in code.planes]
        row, col = self._vectors(code, block)
        grad = self._plain(share, f"plain {number}", block)
        targets = [self._target(plane, block, mapped) for plane in code.planes]
        sums = self._sums(code, block)
        self._math.map_gradients(Map(code.map), planes, row, col, grad, targets, sums)
        self._add(code, block, sums, 1.0)

    def _target(self, plane: int, block: Block, mapped: dict[int, Share]) -> Target | None:
        """Where a map's gradient by a plane goes: into one matrix, whatever maps read the plane."""
        if not self._needs.planes[plane]:
            return None
        if plane in mapped:
            return Target(mapped[plane].grad, add=True)
        out = self._room(f"map {plane}", block)
        mapped[plane] = Share(out, 1.0)
        return Target(out, add=False)

    def _fold(
        self, number: int, code: PlaneCode, block: Block, share: Share, begun: set[int]
    ) -> None:
        """Add a part of a plane's gradient to that of the longer prefixes."""
        chain = self._last[number]
        row, col = self._vectors(code, block)
        total = self._room(f"total {chain}", block)
        value, sums = self._values.of(number, block), self._sums(code, block)
        own = _times(row, share.factor, block, total)
        self._math.fold(share.grad, value, own, col, Target(total, chain in begun), sums)
        self._add(code, block, sums, share.factor)
        begun.add(chain)

    def _add_products(self, code: PlaneCode, block: Block, total: Tensor) -> None:
        """dQ += C K and dK += C^T Q, of the features that no shorter prefix has."""
        values, triangle = self._values, self._call.spec.triangle
        features = self._call.spec.slab(code)
        total = total.to(values.embeddings(code.query, block.rows).dtype)
        if code.query in self._found:
            own = self._found[code.query][block.rows, features]
            add_product(own, total, values.embeddings(code.other, block.cols)[:, features], 1, 1.0)
        if code.other in self._found and (block.mirrored or not triangle):
            own = self._found[code.other][block.cols, features]
            query = values.embeddings(code.query, block.rows)[:, features]
            add_product(own, total.t(), query, 1, 1.0)

    def _vectors(
        self, code: PlaneCode | MapCode, block: Block
    ) -> tuple[Tensor | None, Tensor | None]:
        row, col = code.vectors
        return self._values.vector(row, block.rows), self._values.vector(col, block.cols)

    def _sums(self, code: PlaneCode | MapCode, block: Block) -> Sums:
        """Zeros for the sums that gradients of the code's vectors are made of."""
        row, col = code.vectors
        mirrored = block.mirrored or not self._call.spec.triangle

        def zeros(slot: int, span: slice) -> Tensor | None:
            if slot not in self._found:
                return None
            return torch.zeros(len_of(span), dtype=torch.float64, device=self._call.sizes.device)

        return Sums(zeros(row, block.rows), zeros(col, block.cols) if mirrored else None)

    def _add(self, code: PlaneCode | MapCode, block: Block, sums: Sums, factor: Factor) -> None:
        for slot, span, own in zip(code.vectors, (block.rows, block.cols), sums, strict=True):
            if own is not None:
                rows_of(self._found[slot], span).add_(own * factor)

    def _divide_by_factors(self) -> None:
        """The sums are of gradients times numbers of the plane, which have the factor in them."""
        planes = [code for code in self._call.spec.planes if isinstance(code, PlaneCode)]
        for slot in {slot for code in planes for slot in code.vectors} & self._found.keys():
            factor = self._call.tensors[slot].detach().double()
            there = factor != 0
            self._found[slot].div_(torch.where(there, factor, 1.0)).mul_(there)

    def _plain(self, share: Share, name: str, block: Block) -> Tensor:
        """The share as it is, its factor applied."""
        if isinstance(share.factor, float) and share.factor == 1.0:
            return share.grad
        out = self._room(name, block)
        self._math.scale(share.grad, _times(None, share.factor, block, out), None, out)
        return out

    def _room(self, name: str, block: Block) -> Tensor:
        if name not in self._rooms:
            sizes = self._call.sizes
            self._rooms[name] = torch.empty(
                self._call.plan.largest, dtype=sizes.dtype, device=sizes.device
            )
        rows, cols = block.shape
        return self._rooms[name][: rows * cols].view(rows, cols)


def len_of(span: slice) -> int:
    """Entries of a block's side."""
    length: int = span.stop - span.start
    return length


def _times(row: Tensor | None, factor: Factor, block: Block, like: Tensor) -> Tensor | None:
    """The factor of each row times one for all."""
    if isinstance(factor, float) and factor == 1.0:
        return row
    if row is not None:
        return (row * factor).to(like.dtype)
    if isinstance(factor, Tensor):
        return factor.to(like.dtype).expand(len_of(block.rows)).contiguous()
    return like.new_full((len_of(block.rows),), factor)
