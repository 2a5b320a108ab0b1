"""Bytes of a rank: of the loss at its peak, and of a training step around it.

Counted from what the engine and contrastile.parallel hold at once; tests/test_plan.py compares the
sums with what a CPU allocates, for one process and for two. A loss's peak is in its backward pass,
while the gradients of a shard are made; with very many columns where their sums are merged.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

from ..engine.one_pass import SHORTEST_STRIP
from .shapes import Shape

# Bytes of O(N) vectors, measured on a CPU: a row and a column of the scores that a pass looks at,
# a column of all ranks, and one of those while ranks merge their sums.
ROW, COLUMN, EVERYWHERE, MERGED = 60, 64, 12, 60
# With one process, the same for rows and columns.
ALONE = 32


class Memory(NamedTuple):
    """Bytes by what they hold.

    Attributes:
        embeddings: this rank's, of both towers.
        gradients: sums of the embeddings' gradients, and these as they leave.
        keys: of other ranks.
        key_gradients: gradients of other ranks' keys, on their way or not yet scattered.
        widened: embeddings in the dtype that a CPU multiplies in.
        vectors: sums, positives, coefficients.
        workspace: scores.
    """

    embeddings: int
    gradients: int
    keys: int
    key_gradients: int
    widened: int
    vectors: int
    workspace: int

    @property
    def loss(self) -> int:
        """What the loss adds to the embeddings."""
        return sum(self) - self.embeddings


def memory_of(shape: Shape, exchange: str, workspace: int, gpu: bool = True) -> Memory:
    """A rank's memory at the peak of the loss; of the rank with the most rows.

    ``gpu``: half precision is multiplied as it is.
    """
    scores = min(workspace, 2 * max(shape.rows) * shape.total * shape.wide)
    if shape.world == 1:
        return _alone(shape, scores, gpu)
    gathered = exchange == "gather"
    rows = max(shape.rows)
    passed = shape.total if gathered else rows
    backward = _backward(shape, gathered, scores, gpu)._replace(
        vectors=ROW * rows + COLUMN * passed + EVERYWHERE * shape.total, workspace=scores
    )
    kept = shape.total if gathered else rows
    merged = Memory(
        backward.embeddings, 0, kept * shape.size * shape.itemsize, 0, 0, 0, 0
    )._replace(vectors=ROW * rows + MERGED * shape.total * bool(shape.kind.column_sums))
    return max(backward, merged, key=lambda memory: memory.loss)


def _alone(shape: Shape, scores: int, gpu: bool) -> Memory:
    """One process: sums of gradients, which leave as they are if nothing is to be rounded."""
    numbers = 2 * shape.total * shape.size
    half = shape.itemsize < shape.wide
    # Gradients made at once are multiplied when that of the loss is known.
    leaving = shape.itemsize if half or _at_once(shape, scores, gpu) else 0
    widened = _widened(shape, shape.total, scores) if half and not gpu else 0
    sums = numbers * shape.wide
    # When gradients leave no scores are there any more.
    later = max(numbers * leaving - scores, 0)
    return Memory(
        numbers * shape.itemsize, sums + later, 0, 0, widened, 2 * ALONE * shape.total, scores
    )


def _at_once(shape: Shape, scores: int, gpu: bool) -> bool:
    """Whether the gradients are made in the forward pass: on a CPU strip by strip, see
    contrastile.engine.one_pass.
    """
    if gpu or shape.kind.column_sums:
        return gpu and shape.kind.one_look
    strip = SHORTEST_STRIP * 2 * shape.total * shape.wide
    return strip <= scores < 2 * shape.total**2 * shape.wide


def _widened(shape: Shape, keys: int, scores: int) -> int:
    """Keys that a CPU multiplies with, in fp32, and the queries of two strips of square blocks."""
    strips = min(max(shape.rows), 2 * isqrt(scores // shape.wide))
    return (keys + strips) * shape.size * shape.wide


def _backward(shape: Shape, gathered: bool, scores: int, gpu: bool) -> Memory:
    """While the gradients of a shard are made and added."""
    rows, size, world = max(shape.rows), shape.size, shape.world
    own, wide = rows * size * shape.itemsize, rows * size * shape.wide
    half = shape.itemsize < shape.wide
    passed = shape.total * size * shape.wide if gathered else wide
    looked_at = shape.total if gathered else rows
    widened = _widened(shape, looked_at, scores) if half and not gpu else 0
    if gathered:
        # Of the queries' gradients the sum and the pass's; of the keys' all, and the pass's.
        keys = shape.total * size * shape.itemsize
        return Memory(2 * own, 2 * wide, keys, 2 * passed, widened, 0, 0)
    # Of the queries' gradients the sum and the shard's. Of the keys' the shard's in two places, one
    # that leaves and one that arrives.
    keys = 2 * own if world > 2 else own
    return Memory(2 * own, 2 * wide, keys, 4 * wide, widened, 0, 0)


class Step(NamedTuple):
    """Bytes of a training step with sub-batches: while the loss is computed, and while an encoder
    goes backward through a sub-batch.
    """

    loss: int
    encoder: int

    @property
    def peak(self) -> int:
        """The larger of both."""
        return max(self)


def step_of(memory: Memory, rows: int, sub_batch: int, model_bytes: int, fixed: int) -> Step:
    """``model_bytes``: of activations, a sample of both towers; ``fixed``: all that is there
    whatever the batch: weights, their gradients, the optimizer's state, input of a batch.

    In one piece all activations are held while the loss is computed. Otherwise, with
    contrastile.training.gradient_cache, the encoders' graphs are built once the gradients of the
    embeddings are there.
    """
    outside = fixed + memory.embeddings
    if sub_batch >= rows:
        whole = outside + rows * model_bytes
        return Step(whole + memory.loss, whole + memory.embeddings)
    return Step(outside + memory.loss, outside + memory.embeddings + sub_batch * model_bytes)
