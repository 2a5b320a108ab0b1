"""The Triton backend bound to one run: launches, and the memory they write to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.blocks import Block
from ...engine.run import Run
from ...engine.vectors import ChannelVectors, Sides
from ...problem import Channel
from ...triton_kernels import merge, pairs, rows, shift, softmax, weights
from .device import Device
from .encode import Encoded, encode
from .launch import Launch, Purpose, pick
from .operands import Embedding, as_triton, precision, strip_argument
from .unit import unit_of

LINE = 128
SWEEP = 1024
FEATURES = 64


@dataclass(frozen=True, eq=False)
class Carry:
    """What the backward pass finds again: the arguments, the fixed shifts, and which form it is."""

    encoded: Encoded
    flag: Tensor
    shifts: Tensor


class TritonKernel:
    """Reduces and weighs blocks; the shift's form is settled on the device, without a wait."""

    def __init__(self, run: Run) -> None:
        self.run = run
        problem = run.problem
        self.device = Device.of(problem.device)
        self.query = Embedding.of(run.query.whole())
        self.key = self.query if problem.triangle else Embedding.of(run.key.whole())
        self.acc = as_triton(problem.dtype)
        self.precision = precision(run.operand_dtype)
        self.channels = [v for v in run.vectors if isinstance(v, ChannelVectors)]
        self._strip: Tensor | None = None
        self.zero = torch.zeros(1, dtype=torch.int32, device=problem.device)
        with self._on_device():
            if not isinstance(run.carry, Carry):
                run.carry = self._begin()
            self.carry: Carry = run.carry
            if not run.vectors[0].grads.absent:
                run.unit = unit_of(run)
        one = torch.ones((), dtype=problem.dtype, device=problem.device)
        self.unit = one if run.unit is None else run.unit

    def reduce(self, block: Block) -> None:
        """Add the block's partial sums to the run's."""
        with self._on_device():
            self._reduce(block, general=False)

    def finish(self) -> None:
        """Settle the shifts; on the device, where they failed, every block is done over."""
        if not self.channels:
            return
        with self._on_device():
            self._settle()
            for strip in self.run.plan:
                for block in strip:
                    self._reduce(block, general=True)

    def weights(self, block: Block, row_products: Tensor | None) -> Tensor:
        """G of the block in a strip that the next call overwrites."""
        height, width = block.shape
        out = self._strip_of(height, width)
        launch = pick(self.device, self.run.operand_dtype, Purpose.WEIGH)
        with self._on_device():
            tiles = -(-width // launch.cols)
            products = None
            if row_products is not None:
                products = self._partials(block, (tiles, height))
            for general in (False, True) if self.channels else (False,):
                self._weigh(block, launch, out, products, general)
            if products is not None and row_products is not None:
                self._add(products, row_products, block.rows, tiles, self.zero)
            if self.run.positive_grad is not None:
                self._put_positives(block, out, row_products)
        return out

    # Forward

    def _begin(self) -> Carry:
        run, problem = self.run, self.run.problem
        encoded = encode(problem, run.vectors)
        device = problem.device
        if run.takes_positives:
            self._gather_positives()
        flag = torch.zeros(1, dtype=torch.int32, device=device)
        shifts = torch.empty(len(run.vectors), dtype=problem.dtype, device=device)
        if not self.channels:
            return Carry(encoded, flag, shifts)
        for vectors in self.channels:
            vectors.use_running_shift(problem)
            vectors.keeps_shifts = True
        self.spans = torch.empty(len(run.vectors), dtype=torch.float64, device=device)
        query = self._norms(self.query)
        key = query if self.key is self.query else self._norms(self.key)
        shift.choose_shifts[(1,)](
            query,
            len(query),
            key,
            len(key),
            problem.n,
            problem.m,
            encoded.vectors,
            encoded.class_range,
            shifts,
            self.spans,
            flag,
            CODE=encoded.code,
            BLOCK=SWEEP,
        )
        return Carry(encoded, flag, shifts)

    def _norms(self, embedding: Embedding) -> Tensor:
        count, size = embedding.tensor.shape
        programs = -(-count // LINE)
        out = torch.empty(programs, dtype=self.run.problem.dtype, device=self.run.problem.device)
        rows.square_norms[(programs,)](
            embedding.tensor,
            *embedding.strides,
            count,
            out,
            D=size,
            ACC=self.acc,
            BLOCK=LINE,
            DEPTH=FEATURES,
        )
        return out

    def _gather_positives(self) -> None:
        problem = self.run.problem
        rows.gather_dots[(-(-problem.n // LINE),)](
            self.query.tensor,
            *self.query.strides,
            self.key.tensor,
            *self.key.strides,
            problem.positives,
            problem.n,
            self.run.positive_dots,
            D=problem.d,
            ACC=self.acc,
            BLOCK=LINE,
            DEPTH=FEATURES,
        )

    def _reduce(self, block: Block, general: bool) -> None:
        run, problem, carry = self.run, self.run.problem, self.carry
        launch = pick(self.device, run.operand_dtype, Purpose.REDUCE)
        height, width = block.shape
        diagonal = problem.triangle and not block.mirrored
        both = problem.triangle
        sides = {"rows": problem.rows, "cols": problem.columns or both}
        tiles = {"rows": -(-width // launch.cols), "cols": -(-height // launch.rows)}
        lengths = {"rows": height, "cols": width}
        make = torch.zeros if diagonal else torch.empty
        shape = {s: (len(run.vectors), tiles[s], lengths[s]) for s in sides}
        sums, tops, counts = (
            {
                s: make(shape[s], dtype=dtype, device=problem.device) if sides[s] and on else None
                for s in sides
            }
            for dtype, on in (
                (problem.dtype, True),
                (problem.dtype, general),
                (torch.int32, problem.ranks and not general),
            )
        )
        if diagonal and general and tops["cols"] is not None:
            tops["cols"].fill_(float("-inf"))
        thresholds = run.counts.thresholds
        own = dict(
            CODE=carry.encoded.code,
            D=problem.d,
            SUMS_ROWS=sides["rows"],
            SUMS_COLS=sides["cols"],
            COUNTS_ROWS=counts["rows"] is not None and thresholds.rows is not None,
            COUNTS_COLS=counts["cols"] is not None and thresholds.cols is not None,
            DIAGONAL=diagonal,
            PRECISION=self.precision,
            ACC=self.acc,
            **launch.constants(),
        )
        any_sum = sums["rows"] if sums["rows"] is not None else sums["cols"]
        counting = (
            (_or(thresholds.rows, any_sum), _or(thresholds.cols, any_sum)),
            _or(counts["rows"], any_sum),
            _or(counts["cols"], any_sum),
        )
        grid = (launch.programs(height, width, self.device),)
        place = self._place(block, launch)
        both_sums = _or(sums["rows"], any_sum), _or(sums["cols"], any_sum)
        if self.channels:
            softmax.reduce_channels[grid](
                *place,
                carry.encoded.vectors,
                carry.encoded.data,
                carry.flag,
                carry.shifts,
                *both_sums,
                _or(tops["rows"], any_sum),
                _or(tops["cols"], any_sum),
                *counting,
                GENERAL=general,
                **own,
            )
        else:
            pairs.reduce_terms[grid](
                *place, carry.encoded.vectors, carry.encoded.data, *both_sums, *counting, **own
            )
        self._merge(block, sums, tops, counts, tiles, general)

    def _merge(
        self,
        block: Block,
        sums: dict[str, Tensor | None],
        tops: dict[str, Tensor | None],
        counts: dict[str, Tensor | None],
        tiles: dict[str, int],
        general: bool,
    ) -> None:
        run = self.run
        spans = {"rows": block.rows, "cols": block.cols}
        for side, span in spans.items():
            part, top, count = sums[side], tops[side], counts[side]
            if part is None:
                continue
            for position, vectors in enumerate(run.vectors):
                total = getattr(vectors.sums, side)
                if not general:
                    self._add(part[position], total, span, tiles[side], self.carry.flag)
                    continue
                assert top is not None and isinstance(vectors, ChannelVectors)
                length = span.stop - span.start
                merge.merge_partials[(-(-length // LINE),)](
                    part[position],
                    top[position],
                    total,
                    getattr(vectors.shifts, side),
                    span.start,
                    length,
                    tiles[side],
                    self.carry.flag,
                    BLOCK=LINE,
                )
            if count is not None and getattr(run.counts.counts, side) is not None:
                total = getattr(run.counts.counts, side)
                self._add(count[0], total, span, tiles[side], self.zero)

    def _add(self, partials: Tensor, totals: Tensor, span: slice, tiles: int, flag: Tensor) -> None:
        length = span.stop - span.start
        merge.add_partials[(-(-length // LINE),)](
            partials, totals, span.start, length, tiles, flag, FLAG=False, BLOCK=LINE
        )

    def _settle(self) -> None:
        problem = self.run.problem
        sides = tuple(
            (position, sums, shifts, len(sums), terms)
            for position, vectors in enumerate(self.channels)
            for sums, shifts, terms in self._ends(vectors)
        )
        shift.settle[(1,)](
            sides,
            self.carry.shifts,
            self.spans,
            self.carry.flag,
            CHANNELS=len(self.channels),
            BLOCK=SWEEP,
        )

    def _ends(self, vectors: ChannelVectors) -> Iterator[tuple[Tensor, Tensor, int]]:
        problem = self.run.problem
        if problem.rows:
            yield _both(vectors.sums.rows, vectors.shifts.rows, problem.m)
        if problem.columns:
            yield _both(vectors.sums.cols, vectors.shifts.cols, problem.n)

    # Backward

    def _weigh(
        self, block: Block, launch: Launch, out: Tensor, products: Tensor | None, general: bool
    ) -> None:
        run, problem, carry = self.run, self.run.problem, self.carry
        from_rows = run.vectors[0].grads.rows is not None
        from_cols = run.vectors[0].grads.cols is not None
        height, width = block.shape
        weights.weigh[(launch.programs(height, width, self.device),)](
            *self._place(block, launch),
            carry.encoded.vectors,
            self._gradients(),
            carry.encoded.data,
            carry.flag,
            carry.shifts,
            self.unit,
            strip_argument(out, launch),
            out,
            out.stride(0),
            _or(products, self.zero),
            CODE=carry.encoded.code,
            D=problem.d,
            CHANNELS=bool(self.channels),
            FROM_ROWS=from_rows,
            FROM_COLS=from_cols,
            PRODUCTS=products is not None,
            DIAGONAL=problem.triangle and not block.mirrored,
            GENERAL=general,
            PRECISION=self.precision,
            ACC=self.acc,
            OUT=as_triton(out.dtype),
            **launch.constants(),
        )

    def _put_positives(self, block: Block, out: Tensor, row_products: Tensor | None) -> None:
        run, problem = self.run, self.run.problem
        weights.put_positives[(-(-problem.n // LINE),)](
            out,
            out.stride(0),
            block.rows.start,
            block.rows.stop,
            block.cols.start,
            block.cols.stop,
            problem.positives,
            run.positive_grad,
            run.positive_dots,
            self.unit,
            _or(row_products, self.zero),
            problem.n,
            TRIANGLE=problem.triangle,
            PRODUCTS=row_products is not None,
            BLOCK=LINE,
        )

    def _gradients(self) -> tuple[tuple[Tensor, ...], ...]:
        """Of each channel the shifts and coefficients of rows and columns; of a term the latter."""
        found = []
        for vectors in self.run.vectors:
            grads = vectors.grads
            given = grads.rows if grads.rows is not None else grads.cols
            assert given is not None
            pairs_of = [_or(grads.rows, given), _or(grads.cols, given)]
            if isinstance(vectors, ChannelVectors):
                shifts = [_or(vectors.lse.rows, given), _or(vectors.lse.cols, given)]
                found.append((shifts[0], pairs_of[0], shifts[1], pairs_of[1]))
            else:
                factor = vectors.reduction.factor
                found.append(tuple(g if factor == 1.0 else g * factor for g in pairs_of))
        return tuple(found)

    # Both

    def _partials(self, block: Block, shape: tuple[int, ...]) -> Tensor:
        """Room for partial sums; zeroed where tiles below a diagonal leave some out."""
        problem = self.run.problem
        make = torch.zeros if problem.triangle and not block.mirrored else torch.empty
        return make(shape, dtype=problem.dtype, device=problem.device)

    def _place(self, block: Block, launch: Launch) -> tuple[Any, ...]:
        return (
            self.query.argument(launch, launch.rows),
            self.key.argument(launch, launch.cols),
            *self.query.strides,
            *self.key.strides,
            block.rows.start,
            block.rows.stop,
            block.cols.start,
            block.cols.stop,
        )

    def _strip_of(self, height: int, width: int) -> Tensor:
        """[height, width] in the operands' dtype, rows padded to whole vectors."""
        padded = -(-width // 16) * 16
        if self._strip is None or self._strip.numel() < height * padded:
            problem = self.run.problem
            largest = max(
                b.shape[0] * -(-b.shape[1] // 16) * 16 for s in self.run.plan for b in s
            )
            self._strip = torch.empty(
                largest, dtype=self.run.operand_dtype, device=problem.device
            )
        return self._strip[: height * padded].view(height, padded)[:, :width]

    def _on_device(self) -> contextlib.AbstractContextManager[Any]:
        """Triton launches on the current device, whatever the tensors are on."""
        device = self.run.problem.device
        return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _or(tensor: Tensor | None, stand_in: Tensor | None) -> Tensor:
    """A kernel takes a tensor for every argument, also for those it never reads."""
    found = stand_in if tensor is None else tensor
    assert found is not None
    return found


def _both(sums: Tensor | None, shifts: Tensor | None, terms: int) -> tuple[Tensor, Tensor, int]:
    assert sums is not None and shifts is not None
    return sums, shifts, terms
