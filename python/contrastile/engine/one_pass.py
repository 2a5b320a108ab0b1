"""Gradients in the forward pass, for losses of one direction: three products instead of four.

A row's weight in the gradient is known as soon as its strip is reduced, if the loss tells how it
depends on the row's own stats. Then a strip's scores are used while they are still there, and the
backward pass only multiplies by one number. The telling is a promise that the backward pass checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import Block, Tile, all_fit, strips
from .gradients import Gradients, Needs
from .memory import use_huge_pages
from .run import Run

# rows, their stats (one vector a reduction), their positives -> upstream gradients of those stats
# up to one factor common to all rows.
Expected = Callable[[slice, tuple[Tensor, ...], Tensor | None], tuple[Tensor, ...]]

# Below this the product of a strip with the queries is too thin for a GEMM.
SHORTEST_STRIP = 128

# Two fp32 evaluations of one formula differ by a few roundings; anything else is another formula.
AGREEMENT = 32.0


@dataclass
class OnePass:
    """Gradients for the expected upstream, until the true one is known."""

    gradients: Gradients
    expected: list[Tensor]

    def take(self, run: Run, upstream: tuple[Tensor | None, ...]) -> Gradients | None:
        """The gradients for ``upstream``; None if it is no multiple of what was expected."""
        factor = common_factor(self.expected, upstream)
        if factor is None:
            return None
        self.gradients.multiply(factor)
        return self.gradients


def fits_one_pass(run: Run) -> bool:
    """One direction, more scores than can be kept, and a strip of them within the workspace."""
    problem = run.problem
    if not run.backend.settles_strips or not run.plan or all_fit(problem, run.plan):
        return False
    if problem.triangle or problem.columns or run.score_sums is not None:
        return False
    return _strip_rows(run) >= min(SHORTEST_STRIP, problem.n)


def one_pass(run: Run, needs: Needs, expected: Expected) -> OnePass:
    """Reduce every strip and use its scores for the gradients at once."""
    problem = run.problem
    gradients = Gradients(run, needs)
    kernel = run.backend.bind(run)
    for vectors in run.vectors:
        vectors.allot_gradients(problem, rows=True, cols=False)
    guesses = [
        torch.empty(problem.n, dtype=problem.dtype, device=problem.device) for _ in run.vectors
    ]
    height, width = run.plan[0][0].shape
    tallest = min(height, _strip_rows(run))
    run.plan = strips(problem, Tile(tallest, width))
    memory = torch.empty(tallest * problem.m, dtype=problem.dtype, device=problem.device)
    use_huge_pages(memory)
    for strip in run.plan:
        rows = strip[0].rows
        kept = _in_memory(strip, memory)
        for block in kept:
            kernel.reduce(block)
        stats = tuple(vectors.row_stats(rows) for vectors in run.vectors)
        guessed = expected(rows, stats, run.positives(rows))
        for vectors, guess, grad in zip(run.vectors, guesses, guessed, strict=True):
            guess[rows] = grad
            vectors.set_gradients("rows", rows, guess[rows])
        gradients.add_strip(kernel, kept)
    return OnePass(gradients, guesses)


def _strip_rows(run: Run) -> int:
    """Rows of which the scores fit the workspace, beside the block that weights are formed in."""
    problem = run.problem
    return (problem.workspace // problem.dtype.itemsize) // (problem.m + run.plan[0][0].shape[1])


def common_factor(expected: list[Tensor], upstream: tuple[Tensor | None, ...]) -> float | None:
    """c with upstream = c expected up to rounding in every entry; None if there is none."""
    if any(grad is None for grad in upstream):
        return None
    guess = torch.cat(expected)
    true = torch.cat([grad for grad in upstream if grad is not None])
    at = int(guess.abs().argmax())
    if float(guess[at]) == 0.0:
        return 1.0 if not bool(true.any()) else None
    factor = float(true[at].double() / guess[at].double())
    limit = AGREEMENT * torch.finfo(guess.dtype).eps
    close = (true - guess * factor).abs() <= limit * (guess * factor).abs()
    return factor if bool(close.all()) else None


def _in_memory(strip: list[Block], memory: Tensor) -> list[Block]:
    """The strip with room for its scores."""
    blocks, start = [], 0
    for block in strip:
        rows, cols = block.shape
        room = memory[start : start + rows * cols].view(rows, cols)
        blocks.append(Block(block.rows, block.cols, block.mirrored, room))
        start += rows * cols
    return blocks
