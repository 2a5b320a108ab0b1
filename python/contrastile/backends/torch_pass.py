"""The forward pass over blocks in plain torch: what the compiled pass does, step by step.

In fp64, whatever the embeddings are. Plain torch has no fused multiply-add on every processor: in
fp32 each step of an exponent would round at the size of the score. And fp64 has the range for the
powers of ordinary scores as they are, without a shift, so that rows and columns share them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine.arguments import score_argument
from ..engine.job import Job
from ..engine.plan import Block
from ..engine.ranks import positives_beforehand, thresholds_of
from ..engine.row_steps import log_sums
from ..engine.spans import WHOLE, part
from ..engine.state import Reduced, State, Vectors
from ..problem import Phi
from ..problem.spec import NONE
from . import phi, running
from .exponents import exponent_range, values_of
from .kept_out import KeptOut, Selection
from .pieces import Room, of, pieces
from .places import Places, take

# Powers of exponents within so many bits, their sums, and their reciprocals times any upstream
# gradient that fp32 can hold are normal numbers of fp64.
UNSHIFTED = 400.0


class Sums:
    """Of one stat: sums of rows and of columns, and their shifts once they have their own."""

    def __init__(self, job: Job) -> None:
        self.rows, self.cols = _of_sides(job, 0.0, torch.float64)
        self.row_shift: Tensor | None = None
        self.col_shift: Tensor | None = None
        self.running = False

    def run(self, job: Job) -> None:
        """From here on each row and column has its own shift, the largest exponent so far.

        What was summed without a shift keeps it until larger exponents come.
        """
        self.running = True
        self.row_shift, self.col_shift = _of_sides(job, -math.inf, job.sizes.dtype)
        for shifts, sums in ((self.row_shift, self.rows), (self.col_shift, self.cols)):
            if shifts is not None and sums is not None:
                shifts.masked_fill_(sums > 0, 0.0)


class TorchReducer:
    """Blocks by torch.mm and elementwise torch."""

    def __init__(self, job: Job) -> None:
        self.job = job
        spec = job.spec
        self._places = Places()
        self._room = Room(job)
        self._sums = [Sums(job) for _ in spec.stats]
        self._positive = positives_beforehand(job)
        self._takes = self._positive is not None and not spec.ranks
        self._thresholds = thresholds_of(job, self._positive)
        self._row_count, self._col_count = (
            None
            if limit is None
            else torch.zeros(len(limit), dtype=torch.int64, device=limit.device)
            for limit in self._thresholds
        )
        if spec.triangle:
            self._col_count = self._row_count
        # Sums of scores, of the last stat's pairs, for its gap.
        self._scores = Sums(job) if spec.gaps else None
        self._share_powers = _have_one_exponent(job)
        self._powers: Tensor | None = None

    def reduce(self, block: Block) -> None:
        """Add a block to the sums and counts."""
        job = self.job
        dots = job.reduced_dots(block, self._room.dots)
        if self._takes:
            assert job.positives is not None and self._positive is not None
            take(self._places, block, dots, job.positives, self._positive)
        self._stay_in_reach(dots)
        for piece, (own, *planes) in pieces(block, dots, *job.planes_of(block)):
            self._reduce_piece(piece, own, planes)
        self._powers = self._room.get("x", block) if self._leaves_powers(block) else None

    def settle(self, rows: slice = WHOLE) -> Reduced:
        """The stats; of a strip, in vectors of full length."""
        job, spec = self.job, self.job.spec
        row_stats, row_bits = self._stats("rows", rows)
        col_stats, col_bits = ((), ()) if spec.triangle else self._stats("cols", WHOLE)
        shifts = [math.nan if sums.running else 0.0 for sums in self._sums]
        state = State(
            row_bits,
            col_bits,
            shifts=torch.tensor(shifts, dtype=torch.float64, device=job.sizes.device),
            positive=self._positive,
            powers=self._powers,
        )
        col_count = None if spec.triangle else self._col_count
        scores = self._scores
        of_rows = None if scores is None or spec.row_counts == NONE else scores.rows
        of_cols = None if scores is None or spec.col_counts == NONE else scores.cols
        return Reduced(row_stats, col_stats, self._row_count, col_count, of_rows, of_cols, state)

    def _reduce_piece(self, piece: Block, dots: Tensor, planes: Sequence[Tensor]) -> None:
        job, spec = self.job, self.job.spec
        selection = Selection(job.tensors, piece, self._places, planes)
        shared: Tensor | None = None
        for position, (stat, sums) in enumerate(zip(spec.stats, self._sums, strict=True)):
            kept_out = selection.kept_out(stat)
            if position == 0 and spec.ranks:
                self._count(kept_out, selection, dots)
            if sums.running:
                x = self._values(position, selection, dots, "x")
                running.add_powers(x, kept_out, self._running_sides(sums, piece), job.sizes.dtype)
                continue
            if self._share_powers:
                if shared is None:
                    shared = self._values(position, selection, dots, "powers").exp2_()
                values = self._room.get("x", piece).copy_(shared)
            else:
                values = self._values(position, selection, dots, "x")
                if stat.phi is None:
                    values.exp2_()
                else:
                    values = phi.value(Phi(stat.phi), values, job.sizes.dtype)
            self._add(sums, values, kept_out, piece)
        if self._scores is not None:
            kept_out = selection.kept_out(spec.stats[-1])
            argument = score_argument(job.scores, job.sizes.dtype)
            plain = spec.stats[-1]._replace(classes=())
            values = values_of(plain, argument, selection, dots, self._room.get("x", piece))
            self._add(self._scores, values, kept_out, piece)

    def _values(self, position: int, selection: Selection, dots: Tensor, room: str) -> Tensor:
        stat, argument = self.job.spec.stats[position], self.job.arguments[position]
        return values_of(stat, argument, selection, dots, self._room.get(room, selection.block))

    def _columns_too(self, piece: Block) -> bool:
        return piece.mirrored if self.job.spec.triangle else self.job.spec.columns

    def _add(self, sums: Sums, values: Tensor, kept_out: KeptOut, piece: Block) -> None:
        """Add the kept pairs' values to the sums; those of other pairs are overwritten by 0."""
        kept_out.fill_(values, 0.0)
        if self.job.spec.rows and sums.rows is not None:
            of(sums.rows, piece.rows).add_(values.sum(1))
        if self._columns_too(piece) and sums.cols is not None:
            of(sums.cols, piece.cols).add_(values.sum(0))

    def _running_sides(self, sums: Sums, piece: Block) -> list[tuple[Tensor, Tensor, slice, int]]:
        sides = []
        if self.job.spec.rows and sums.rows is not None and sums.row_shift is not None:
            sides.append((sums.row_shift, sums.rows, piece.rows, 1))
        if self._columns_too(piece) and sums.cols is not None and sums.col_shift is not None:
            sides.append((sums.col_shift, sums.cols, piece.cols, 0))
        return sides

    def _count(self, kept_out: KeptOut, selection: Selection, dots: Tensor) -> None:
        x, piece = self._values(0, selection, dots, "x"), selection.block
        kept_out.fill_(x, -math.inf)
        limits = self._thresholds
        if limits.rows is not None and self._row_count is not None:
            self._row_count[piece.rows] += (x > limits.rows[piece.rows, None]).sum(1)
        if self._columns_too(piece) and limits.cols is not None and self._col_count is not None:
            self._col_count[piece.cols] += (x > limits.cols[piece.cols]).sum(0)

    def _stay_in_reach(self, dots: Tensor) -> None:
        """From the first block on whose exponents need one, powers have a running shift."""
        if not self.job.spec.log_sums or all(sums.running for sums in self._sums):
            return
        low, high = map(float, torch.aminmax(dots))
        largest = max(-low, high) if math.isfinite(high - low) else math.inf
        arguments = self.job.arguments
        for stat, argument, sums in zip(self.job.spec.stats, arguments, self._sums, strict=True):
            least, most = exponent_range(stat, argument, largest)
            if not sums.running and (least < -UNSHIFTED or most > UNSHIFTED):
                sums.run(self.job)

    def _leaves_powers(self, block: Block) -> bool:
        """Whether the powers are all in one place, and fit the workspace beside what else is."""
        spec, kept = self.job.spec, self.job.kept_dots(block)
        alone = len(spec.stats) == 1 and self.job.plan.single and spec.log_sums
        alone = alone and not self.job.given
        if not alone or kept is None or self._room.height(block) < block.shape[0]:
            return False
        return not self._sums[0].running and 4 * 8 * kept.numel() <= spec.workspace

    def _stats(self, side: str, span: slice) -> tuple[Vectors, Vectors]:
        """Stats and log-sum-exps in bits of one side, for each stat."""
        dtype = self.job.sizes.dtype
        stats, all_bits = [], []
        for stat, own in zip(self.job.spec.stats, self._sums, strict=True):
            sums = own.rows if side == "rows" else own.cols
            shifts = own.row_shift if side == "rows" else own.col_shift
            if sums is None:
                return (), ()
            if stat.phi is not None:
                stats.append(sums.to(dtype, copy=True))
                continue
            bits = torch.empty_like(sums)
            shift = 0.0 if shifts is None else part(shifts, span)
            found = log_sums(shift, part(sums, span), part(bits, span), dtype)
            if span is not WHOLE:
                whole = torch.empty_like(sums, dtype=dtype)
                whole[span] = found
                found = whole
            stats.append(found)
            all_bits.append(bits)
        return tuple(stats), tuple(all_bits)


def _of_sides(job: Job, value: float, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """A vector of rows and one of columns, where they are reduced; in a triangle the same."""
    spec, sizes = job.spec, job.sizes

    def full(length: int) -> Tensor:
        return torch.full((length,), value, dtype=dtype, device=sizes.device)

    rows = full(sizes.n) if spec.rows else None
    if spec.triangle:
        return rows, rows
    return rows, full(sizes.m) if spec.columns else None


def _have_one_exponent(job: Job) -> bool:
    """Whether there are several log-sum-exps, and all have the same exponents."""
    stats = job.spec.stats
    plain = all(
        s.phi is None and s.row_offset == NONE and s.col_offset == NONE and not s.classes
        for s in stats
    )
    return plain and len(stats) > 1 and len({s.factor for s in stats}) == 1
