"""The CPU backend: torch.mm into a cache-sized scratch, then one fused compiled pass over it.

Without the extension a plain torch pass does the same work on the same blocks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import native
from ..engine.blocks import Block, Tile
from ..engine.run import Kernel, Run
from ..engine.vectors import LOG2E, ChannelVectors, Sides, TermVectors
from ..problem import Channel, Problem
from ..problem.pairs import Instruction, Pairs, split_holes
from .torch_pass import TorchKernel

# fp32 exponents within this many bits of a fixed shift are all normal numbers, and so are the
# sums of 2^27 of them times an upstream gradient of 2^27.
BOUNDED_REACH = 100.0


class CpuBackend:
    """Blocked, threaded as torch is, fp32 and fp64 arithmetic, half precision inputs widened."""

    name = "cpu"

    def available(self) -> str | None:
        return None

    def supports(self, problem: Problem) -> str | None:
        if problem.device.type != "cpu":
            return f"the embeddings are on {problem.device}, not on the CPU"
        return None

    def tile(self, problem: Problem) -> Tile:
        if problem.triangle:
            return Tile(512, 2048)
        return Tile(512, 2048)

    def bind(self, run: Run) -> Kernel:
        module = native.load()
        return TorchKernel(run) if module is None else NativeKernel(run, module)


class NativeKernel:
    """Blocks by torch.mm and the compiled pass."""

    def __init__(self, run: Run, module: Any) -> None:
        self.run = run
        self.threads = torch.get_num_threads()
        self._alive: list[Tensor] = []
        double = run.problem.dtype == torch.float64
        level = native.level()
        if isinstance(run.problem.reductions[0], Channel):
            self._choose_shift(module)
            self.tile_pass = module.SoftmaxPass(double, level)
            self.tile_pass.channels = [
                self._channel(module, v, position)
                for position, v in enumerate(run.vectors)
                if isinstance(v, ChannelVectors)
            ]
        else:
            self.tile_pass = module.PairPass(double, level)
            self.tile_pass.terms = [
                self._term(module, v, position)
                for position, v in enumerate(run.vectors)
                if isinstance(v, TermVectors)
            ]

    def reduce(self, block: Block) -> None:
        """Add the block to the run's sums and counts."""
        problem = self.run.problem
        out = self.run.scratch(block) if block.kept is None else block.kept
        dots = self.run.dot_products(block, out)
        with_cols = block.mirrored if problem.triangle else problem.columns
        self.tile_pass.reduce(
            dots.data_ptr(),
            dots.stride(0),
            *_extent(block),
            problem.rows,
            with_cols,
            self.threads,
        )

    def weights(self, block: Block) -> Tensor:
        """G of the block, in place of its dots unless those are kept."""
        problem = self.run.problem
        out = self.run.scratch(block)
        dots = block.kept if block.kept is not None else self.run.dot_products(block, out)
        self.tile_pass.weights(
            dots.data_ptr(),
            dots.stride(0),
            out.data_ptr(),
            out.stride(0),
            *_extent(block),
            problem.rows,
            problem.triangle or problem.columns,
            self.threads,
        )
        return out

    def _choose_shift(self, module: Any) -> None:
        """Fix the shift of channels whose exponents provably stay within reach of one."""
        run = self.run
        if all(v.shift is not None for v in run.vectors if isinstance(v, ChannelVectors)):
            return
        largest = _max_norm(module, run.query.tensor, self.threads)
        if run.problem.triangle:
            largest *= largest
        else:
            largest *= _max_norm(module, run.key.tensor, self.threads)
        for vectors in run.vectors:
            if isinstance(vectors, ChannelVectors):
                low, high = _exponent_range(vectors, largest)
                if high - low <= 2 * BOUNDED_REACH:
                    shift = min(max(high / 2, high - BOUNDED_REACH), low + BOUNDED_REACH)
                    vectors.use_shift(float(torch.tensor(shift, dtype=torch.float32)))

    def _channel(self, module: Any, vectors: ChannelVectors, position: int) -> Any:
        channel = module.Channel()
        channel.coef_hi = vectors.coef_hi.data_ptr()
        channel.coef_lo = vectors.coef_lo.data_ptr()
        channel.bounded = vectors.shift is not None
        channel.shift = vectors.shift or 0.0
        channel.class_weights = [
            (self._program(pairs), weight * LOG2E)
            for pairs, weight in vectors.reduction.class_log_weights
        ]
        _point(channel, "row_shift", "col_shift", vectors.shifts)
        _point(channel, "row_lse", "col_lse", vectors.lse)
        self._fill(channel, vectors, position)
        return channel

    def _term(self, module: Any, vectors: TermVectors, position: int) -> Any:
        term = module.Term()
        term.coef = vectors.coef.data_ptr()
        term.phi = int(vectors.reduction.phi)
        term.factor = vectors.reduction.factor
        self._fill(term, vectors, position)
        return term

    def _fill(self, target: Any, vectors: ChannelVectors | TermVectors, position: int) -> None:
        """What channels and terms have in common."""
        target.row_offset = vectors.row_offset.data_ptr()
        target.col_offset = 0 if vectors.col_offset is None else vectors.col_offset.data_ptr()
        holes, rest = split_holes(vectors.reduction.pairs)
        target.holes = [hole.data_ptr() for hole in holes]
        target.program = [] if rest is None else self._program(rest)
        _point(target, "row_sum", "col_sum", vectors.sums)
        _point(target, "row_grad", "col_grad", vectors.grads)
        if position == 0:
            _point(target, "row_threshold", "col_threshold", self.run.counts.thresholds)
            _point(target, "row_count", "col_count", self.run.counts.counts)

    def _program(self, pairs: Pairs) -> list[tuple[int, int, int]]:
        return [self._instruction(instruction) for instruction in pairs.program()]

    def _instruction(self, instruction: Instruction) -> tuple[int, int, int]:
        op, *tensors = instruction
        self._alive += [t for t in tensors if t is not None]
        first, second = (0 if t is None else t.data_ptr() for t in tensors)
        return int(op), first, second


def _extent(block: Block) -> tuple[int, int, int, int]:
    rows, cols = block.shape
    return block.rows.start, rows, block.cols.start, cols


def _point(target: Any, rows: str, cols: str, sides: Sides) -> None:
    setattr(target, rows, 0 if sides.rows is None else sides.rows.data_ptr())
    setattr(target, cols, 0 if sides.cols is None else sides.cols.data_ptr())


def _max_norm(module: Any, x: Tensor, threads: int) -> float:
    dtype = native.DTYPES[x.dtype]
    norm: float = module.max_norm(x.data_ptr(), dtype, *x.shape, *x.stride(), threads)
    return norm


def _exponent_range(vectors: ChannelVectors, largest_dot: float) -> tuple[float, float]:
    """Bounds of a channel's exponents in bits; the slack covers the rounding of the dots."""
    reach = float(vectors.coef_hi.abs().max()) * largest_dot * (1 + 1e-3)
    if not math.isfinite(reach):
        return -math.inf, math.inf
    low, high = -reach, reach
    for offset in (vectors.row_offset, vectors.col_offset):
        if offset is not None:
            low, high = low + float(offset.min()), high + float(offset.max())
    for _, weight in vectors.reduction.class_log_weights:
        low, high = low + min(weight * LOG2E, 0.0), high + max(weight * LOG2E, 0.0)
    return low, high
