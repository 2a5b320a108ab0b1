"""The forward half of the compiled pass."""

from __future__ import annotations

import math
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from ... import native
from ...engine.arguments import score_argument
from ...engine.job import Job
from ...engine.plan import Block
from ...engine.ranks import Thresholds, positives_beforehand, thresholds_of
from ...engine.spans import WHOLE
from ...engine.state import Reduced, State, Vectors
from ...problem.spec import NONE
from .compiled import Scratch, ends, lowered, place

# In place of a bound on the dot products: the pass looks for it in the only block there is. Sums of
# a function have no exponents to be bounded.
FROM_BLOCK = -1.0


class Counted(NamedTuple):
    """Numbers of scores above the limits; held here, as the pass knows their addresses only."""

    limits: Thresholds = Thresholds()
    rows: Tensor | None = None
    cols: Tensor | None = None


class Scored(NamedTuple):
    """Sums of scores, each times its row's scale; held here, as the pass knows addresses only."""

    scale: Tensor | None = None
    rows: Tensor | None = None
    cols: Tensor | None = None


class NativeReducer:
    """Dot products by torch.mm; their sums are the compiled pass's until they are settled."""

    _counted = Counted()
    _scored = Scored()

    def __init__(self, job: Job, module: ModuleType) -> None:
        self.job = job
        spec, sizes = job.spec, job.sizes
        threads = torch.get_num_threads()
        largest = FROM_BLOCK if job.plan.single else _largest_dot(job, module, threads)
        self._sums = lowered(module, spec, sizes).sums(
            job.tensors, job.arguments, sizes.n, sizes.m, largest, threads, job.planes
        )
        self._scratch = Scratch(job)
        self._positive = positives_beforehand(job)
        if spec.gaps:
            self._scored = self._sum_scores()
        if spec.ranks:
            self._counted = self._count()
        elif self._positive is not None:
            self._sums.take_positives(job.positives, self._positive)
        # Each settle() fills in the rows it settles, and all columns.
        self._shifts = torch.empty(len(spec.stats), dtype=torch.float64, device=sizes.device)
        self._rows = self._vectors(sizes.n) if spec.rows else ((), ())
        self._cols = self._vectors(sizes.m) if spec.columns else ((), ())

    def reduce(self, block: Block) -> None:
        """Add a block to the sums and counts."""
        dots = self.job.reduced_dots(block, self._scratch.room)
        self._sums.add(dots, dots.stride(0), *place(block))

    def settle(self, rows: slice = WHOLE) -> Reduced:
        """The stats; of a strip, in vectors of full length."""
        begin, end = ends(rows, self.job.sizes.n)
        (row_stats, row_bits), (col_stats, col_bits) = self._rows, self._cols
        self._sums.settle(begin, end, row_stats, row_bits, col_stats, col_bits, self._shifts)
        state = State(row_bits, col_bits, shifts=self._shifts, positive=self._positive)
        counted, scored = self._counted, self._scored
        return Reduced(
            row_stats, col_stats, counted.rows, counted.cols, scored.rows, scored.cols, state
        )

    def _vectors(self, length: int) -> tuple[Vectors, Vectors]:
        """Of one side: the stats, and log-sum-exps in bits."""
        spec, sizes, exact = self.job.spec, self.job.sizes, self._shifts
        stats = [torch.empty(length, dtype=sizes.dtype, device=sizes.device) for _ in spec.stats]
        bits = [exact.new_empty(length) for _ in spec.stats] if spec.log_sums else ()
        return tuple(stats), tuple(bits)

    def _count(self) -> Counted:
        """Room for the counts of the first stat, whose addresses the pass is given."""
        limits = thresholds_of(self.job, self._positive)
        rows, cols = (
            None if limit is None else limit.new_zeros(len(limit), dtype=torch.int64)
            for limit in limits
        )
        triangle = self.job.spec.triangle
        of_cols = rows if triangle else cols
        self._sums.count(limits.rows, rows, limits.cols, of_cols)
        return Counted(limits, rows, None if triangle else cols)

    def _sum_scores(self) -> Scored:
        """Room for the sums of the scores that the last stat keeps, for its gap."""
        spec, sizes = self.job.spec, self.job.sizes
        own = score_argument(self.job.scores, sizes.dtype).high
        rows, cols = (
            None if slot == NONE else torch.zeros(length, dtype=torch.float64, device=sizes.device)
            for slot, length in ((spec.row_counts, sizes.n), (spec.col_counts, sizes.m))
        )
        each = own if isinstance(own, Tensor) else None
        self._sums.sum_scores(each, rows, rows if spec.triangle else cols)
        return Scored(each, rows, cols)


def _largest_dot(job: Job, module: ModuleType, threads: int) -> float:
    """A bound on |<q_i, k_j>|, by Cauchy and Schwarz."""
    if not job.spec.log_sums:
        return FROM_BLOCK
    if job.given:
        return math.inf if job.bound is None else job.bound
    norm = _max_norm(module, job.query.tensor, threads)
    return norm * (norm if job.spec.triangle else _max_norm(module, job.key.tensor, threads))


def _max_norm(module: ModuleType, x: Tensor, threads: int) -> float:
    dtype = native.DTYPES[x.dtype]
    norm: float = module.max_norm(x.data_ptr(), dtype, *x.shape, *x.stride(), threads)
    return norm
