"""The CPU backend: torch.mm into a cache-sized scratch, then one fused compiled pass over it.

Without the extension a plain torch pass does the same work on the same blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import native
from ..engine.blocks import CPU_KEEPING, Block, Keeping, Tile
from ..engine.row_steps import LOG2E
from ..engine.run import Kernel, Run
from ..engine.vectors import ChannelVectors, Sides, TermVectors
from ..problem import Channel, Problem
from ..problem.advice import advise
from ..problem.pairs import Instruction, Pairs, split_holes
from .exponents import exponent_range
from .torch_pass import TorchKernel

# fp32 exponents within this many bits of a fixed shift are all normal numbers, and so are the
# sums of 2^27 of them times an upstream gradient of 2^27.
BOUNDED_REACH = 100.0

# Scores from which on a step takes so long that the compiled pass is worth a compiler.
WORTH_BUILDING = 512 * 512


class CpuBackend:
    """Blocked, threaded as torch is, fp32 and fp64 arithmetic, half precision inputs widened."""

    name = "cpu"

    reads_scale = True
    forms_coefficients = False
    settles_strips = True

    def available(self) -> str | None:
        return None

    def supports(self, problem: Problem) -> str | None:
        if problem.device.type != "cpu":
            return f"the embeddings are on {problem.device}, not on the CPU"
        return None

    def tile(self, problem: Problem) -> Tile:
        # Measured at N = 8192, D = 64 to 512: 1024 x 2048 is within 3 % of the best of nine shapes.
        # In a triangle, D = 256, 1024 x 1024 took 0.85 times as long as 512 x 2048.
        return Tile(1024, 1024 if problem.triangle else 2048)

    def keeping(self, problem: Problem) -> Keeping:
        return CPU_KEEPING

    def operand_dtype(self, problem: Problem) -> torch.dtype:
        return problem.dtype

    def bind(self, run: Run) -> Kernel:
        module = native.load()
        if module is None:
            _advise_to_build(run.problem)
            return TorchKernel(run)
        return NativeKernel(run, module)


class NativeKernel:
    """Blocks by torch.mm and the compiled pass."""

    def __init__(self, run: Run, module: Any) -> None:
        self.run = run
        self.module = module
        self.threads = torch.get_num_threads()
        self.double = run.problem.dtype == torch.float64
        self._alive: list[Tensor] = []
        self._tile_pass: Any = None
        self._sums_pass: Any = None

    def reduce(self, block: Block) -> None:
        """Add the block to the run's sums and counts."""
        run = self.run
        problem = run.problem
        out = run.scratch(block) if block.kept is None else block.kept
        dots = run.dot_products(block, out)
        if self._tile_pass is None:
            self._choose_shift(dots)
            self._tile_pass = self._describe()
            self._sums_pass = self._describe_sums()
        if run.takes_positives:
            assert problem.positives is not None and run.positive_dots is not None
            columns, taken = problem.positives.data_ptr(), run.positive_dots.data_ptr()
            self.module.take_positives(self.double, *self._place(block, dots), columns, taken)
        with_cols = block.mirrored if problem.triangle else problem.columns
        place = dots.data_ptr(), dots.stride(0), *_extent(block)
        self._tile_pass.reduce(*place, problem.rows, with_cols, self.threads)
        if self._sums_pass is not None:
            self._sums_pass.reduce(*place, problem.rows, with_cols, self.threads)

    def finish(self) -> None:
        """Nothing waits: every block was added in full."""

    def weights(self, block: Block, row_products: Tensor | None) -> Tensor:
        """G of the block, in place of its dots unless those are kept."""
        run = self.run
        problem = run.problem
        out = run.scratch(block)
        dots = block.kept if block.kept is not None else run.dot_products(block, out)
        if self._tile_pass is None:
            self._tile_pass = self._describe()
        products = 0 if row_products is None else row_products.data_ptr()
        self._tile_pass.weights(
            dots.data_ptr(),
            dots.stride(0),
            out.data_ptr(),
            out.stride(0),
            *_extent(block),
            problem.rows,
            problem.triangle or problem.columns,
            self.threads,
            products,
            block.share(problem.triangle),
        )
        if run.positive_grad is not None:
            assert problem.positives is not None and run.positive_dots is not None
            self.module.put_positives(
                self.double,
                *self._place(block, out),
                problem.positives.data_ptr(),
                run.positive_grad.data_ptr(),
                run.positive_dots.data_ptr(),
                products,
            )
        return out

    def _place(self, block: Block, data: Tensor) -> tuple[int, int, int, int, int, int, bool, bool]:
        rows = data.data_ptr(), data.stride(0), *_extent(block)
        return (*rows, self.run.problem.triangle, block.mirrored)

    def _describe(self) -> Any:
        """The compiled pass with the addresses of the run's vectors."""
        run, module, level = self.run, self.module, native.level()
        if isinstance(run.problem.reductions[0], Channel):
            tile_pass = module.SoftmaxPass(self.double, level)
            tile_pass.channels = [
                self._channel(module, v, position)
                for position, v in enumerate(run.vectors)
                if isinstance(v, ChannelVectors)
            ]
        else:
            tile_pass = module.PairPass(self.double, level)
            tile_pass.terms = [
                self._term(module, v, position)
                for position, v in enumerate(run.vectors)
                if isinstance(v, TermVectors)
            ]
        return tile_pass

    def _describe_sums(self) -> Any:
        """The pass that sums the scores of the last channel, if its gap is asked for."""
        summed = self.run.score_sums
        if summed is None:
            return None
        tile_pass = self.module.PairPass(self.double, native.level())
        tile_pass.terms = [self._term(self.module, summed, position=1)]
        return tile_pass

    def _choose_shift(self, dots: Tensor) -> None:
        """Fix the shift of channels whose exponents provably stay within reach of one."""
        run = self.run
        channels = [v for v in run.vectors if isinstance(v, ChannelVectors)]
        if not channels:
            return
        largest = self._largest_dot(dots)
        for vectors in channels:
            low, high = exponent_range(vectors, largest)
            if high - low <= 2 * BOUNDED_REACH:
                # Pairs whose gap is asked for may all have the largest score: their powers would be
                # rounded the same way, unless they lie at the shift.
                of_gap = run.score_sums is not None and vectors is channels[-1]
                shift = high if of_gap else max(high / 2, high - BOUNDED_REACH)
                shift = min(shift, low + BOUNDED_REACH)
                vectors.shift = float(np.float32(shift))
            else:
                vectors.use_running_shift(run.problem)
        run.finite = all(vectors.shift is not None for vectors in channels)

    def _largest_dot(self, dots: Tensor) -> float:
        """A bound on |<q_i, k_j>|: exact if this block is all there is, else Cauchy and Schwarz."""
        run = self.run
        if len(run.plan) == 1 and len(run.plan[0]) == 1:
            exact: float = self.module.max_magnitude(
                self.double, dots.data_ptr(), dots.stride(0), *dots.shape
            )
            return exact
        norm = _max_norm(self.module, run.query.tensor, self.threads)
        if run.problem.triangle:
            return norm * norm
        return norm * _max_norm(self.module, run.key.tensor, self.threads)

    def _channel(self, module: Any, vectors: ChannelVectors, position: int) -> Any:
        channel = module.Channel()
        if isinstance(vectors.coef_hi, Tensor) and isinstance(vectors.coef_lo, Tensor):
            channel.coef_hi = vectors.coef_hi.data_ptr()
            channel.coef_lo = vectors.coef_lo.data_ptr()
        else:
            channel.same_coef_hi = vectors.coef_hi
            channel.same_coef_lo = vectors.coef_lo
        channel.bounded = vectors.shift is not None
        channel.shift = vectors.shift or 0.0
        channel.class_weights = [
            (self._program(pairs), weight * LOG2E)
            for pairs, weight in vectors.reduction.class_log_weights
        ]
        _point(channel, "row_shift", "col_shift", vectors.shifts)
        _point(channel, "row_lse", "col_lse", vectors.lse)
        _point(channel, "row_line", "col_line", vectors.lines)
        self._fill(channel, vectors, position)
        return channel

    def _term(self, module: Any, vectors: TermVectors, position: int) -> Any:
        term = module.Term()
        if isinstance(vectors.coef, Tensor):
            term.coef = vectors.coef.data_ptr()
        else:
            term.same_coef = vectors.coef
        term.phi = int(vectors.reduction.phi)
        term.factor = vectors.reduction.factor
        self._fill(term, vectors, position)
        return term

    def _fill(self, target: Any, vectors: ChannelVectors | TermVectors, position: int) -> None:
        """What channels and terms have in common."""
        _point(target, "row_offset", "col_offset", Sides(vectors.row_offset, vectors.col_offset))
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


def _advise_to_build(problem: Problem) -> None:
    """Say, once a process, that the extension is missing."""
    if problem.n * problem.m >= WORTH_BUILDING:
        advise(
            "contrastile",
            "no extension",
            "the compiled pass was not built, so losses on the CPU run in plain torch and take "
            "longer; install again where a C++17 compiler is found (g++ or clang++), and "
            "`contrastile doctor` says what is there",
        )


def _extent(block: Block) -> tuple[int, int, int, int]:
    rows, cols = block.shape
    return block.rows.start, rows, block.cols.start, cols


def _point(target: Any, rows: str, cols: str, sides: Sides) -> None:
    """Give the vectors that exist; a descriptor's addresses are 0 to begin with."""
    if sides.rows is not None:
        setattr(target, rows, sides.rows.data_ptr())
    if sides.cols is not None:
        setattr(target, cols, sides.cols.data_ptr())


def _max_norm(module: Any, x: Tensor, threads: int) -> float:
    dtype = native.DTYPES[x.dtype]
    norm: float = module.max_norm(x.data_ptr(), dtype, *x.shape, *x.stride(), threads)
    return norm
