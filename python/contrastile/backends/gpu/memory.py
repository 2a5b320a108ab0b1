"""The vectors of a forward pass: sums, and the stats and the state that are made of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.ranks import Thresholds, positives_beforehand, thresholds_of
from ...engine.state import Reduced, State, Vectors
from ...problem.spec import NONE
from .forms import Form
from .scene import Scene


@dataclass(frozen=True, eq=False)
class Side:
    """Of rows or of columns, one vector a stat.

    Attributes:
        length: entries of each.
        totals: sums of the fixed form, or of a function, fp64.
        general: sums of the general form, fp64; kernels that add to them set them to 0 first.
        tops: what the powers in these are relative to, the largest exponent so far.
        bits: log-sum-exps in bits, fp64.
        stats: log-sum-exps in nats.
        counts: of the first stat, int64.
        scores: sums of the dot products that the last stat keeps, fp64.
    """

    length: int
    totals: Vectors
    general: Vectors
    tops: Vectors
    bits: Vectors
    stats: Vectors
    counts: Tensor | None
    scores: Tensor | None


@dataclass(frozen=True, eq=False)
class Memory:
    """Of a forward pass. In a triangle rows and columns are one side.

    Attributes:
        rows: what becomes of the rows.
        cols: what becomes of the columns.
        shifts: the fixed shift of each log-sum-exp, in bits.
        spans: how many bits its exponents may span, fp64; None where there is no fixed form.
        flag: whether the general form takes the place of the fixed one [1], int32.
        positive: dot products of the positives [N].
        thresholds: what scores are counted above.
    """

    rows: Side | None
    cols: Side | None
    shifts: Tensor
    spans: Tensor | None
    flag: Tensor
    positive: Tensor | None
    thresholds: Thresholds

    @staticmethod
    def of(scene: Scene, settled_at_once: bool) -> Memory:
        """Room for everything. ``settled_at_once``: a single block's kernel leaves the stats
        themselves, so sums that blocks are added to are not needed.
        """
        job, spec, sizes = scene.job, scene.spec, scene.sizes
        sides = [sizes.n if spec.rows else 0, sizes.m if spec.columns else 0]
        totals = _totals(scene, sides)
        rows, cols = (
            _side(scene, length, own, settled_at_once) if length else None
            for length, own in zip(sides, totals, strict=True)
        )
        device, count = sizes.device, len(spec.stats)
        spans = None
        if Form.FIXED in scene.forms:
            spans = torch.empty(count, dtype=torch.float64, device=device)
        positive = _positive(scene)
        # Of the general form alone nobody asks whether another holds.
        flag = torch.ones if scene.forms == (Form.GENERAL,) and not settled_at_once else torch.empty
        return Memory(
            rows,
            rows if spec.triangle else cols,
            torch.empty(count, dtype=sizes.dtype, device=device),
            spans,
            flag(1, dtype=torch.int32, device=device),
            positive,
            thresholds_of(job, positive),
        )

    def reduced(self, scene: Scene) -> Reduced:
        """What leaves, once everything is settled."""
        rows, cols = self._sides(scene)
        return Reduced(
            _stats(scene, rows),
            _stats(scene, cols),
            None if rows is None else rows.counts,
            None if cols is None else cols.counts,
            None if rows is None else rows.scores,
            None if cols is None else cols.scores,
            self.state(scene),
        )

    def state(self, scene: Scene) -> State:
        """What a backward pass finds of it."""
        rows, cols = self._sides(scene)
        return State(
            row_bits=() if rows is None else rows.bits,
            col_bits=() if cols is None else cols.bits,
            row_tops=() if rows is None else rows.tops,
            col_tops=() if cols is None else cols.tops,
            shifts=self.shifts,
            flag=self.flag,
            positive=self.positive,
        )

    def _sides(self, scene: Scene) -> tuple[Side | None, Side | None]:
        """Rows and columns, which are none of their own in a triangle."""
        return self.rows, None if scene.spec.triangle else self.cols


def _positive(scene: Scene) -> Tensor | None:
    """Room that the kernel which prepares a pass fills, or zeros where blocks are given and fill
    it; with ranks, which compare scores with the positives' own, their dot products as torch's
    operations gather them.
    """
    spec, sizes = scene.spec, scene.sizes
    if spec.positives == NONE or spec.ranks or scene.job.given:
        return positives_beforehand(scene.job)
    return torch.empty(sizes.n, dtype=sizes.dtype, device=sizes.device)


def _totals(scene: Scene, lengths: list[int]) -> list[Vectors]:
    """Zeroed, of one piece of memory, each on 16 bytes."""
    if scene.forms == (Form.GENERAL,):
        return [(), ()]
    count = len(scene.spec.stats)
    steps = [-(-length // 2) * 2 for length in lengths]
    memory = torch.zeros(count * sum(steps), dtype=torch.float64, device=scene.sizes.device)
    found, first = [], 0
    for length, step in zip(lengths, steps, strict=True):
        starts = range(first, first + count * step, step) if length else ()
        found.append(tuple([memory[start : start + length] for start in starts]))
        first += count * step
    return found


def _side(scene: Scene, length: int, totals: Vectors, settled_at_once: bool) -> Side:
    spec, dtype, device = scene.spec, scene.sizes.dtype, scene.sizes.device

    def new(dtype: torch.dtype) -> Vectors:
        # Each of its own: autograd refuses to change views of one tensor in place, and no output
        # of a registered op may be a view of another.
        return tuple([torch.empty(length, dtype=dtype, device=device) for _ in spec.stats])

    counts = scores = None
    if spec.ranks:
        counts = torch.zeros(length, dtype=torch.int64, device=device)
    if spec.gaps:
        scores = torch.zeros(length, dtype=torch.float64, device=device)
    if not spec.log_sums:
        return Side(length, totals, (), (), (), (), counts, scores)
    general = () if settled_at_once else new(torch.float64)
    tops = new(dtype)
    if scene.forms == (Form.GENERAL,) and not settled_at_once:
        # Else the certificate does, where it calls for this form.
        for total, top in zip(general, tops, strict=True):
            total.zero_()
            top.fill_(-torch.inf)
    return Side(length, totals, general, tops, new(torch.float64), new(dtype), counts, scores)


def _stats(scene: Scene, side: Side | None) -> Vectors:
    if side is None:
        return ()
    if scene.spec.log_sums:
        return side.stats
    return tuple([total.to(scene.sizes.dtype, copy=True) for total in side.totals])
