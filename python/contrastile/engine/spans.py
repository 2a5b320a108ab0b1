"""Ranges of rows and columns."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

WHOLE = slice(None)


def part(vector: Tensor, span: slice) -> Tensor:
    """The entries ``span``; the vector itself for ``WHOLE``, as a view costs microseconds."""
    return vector if span is WHOLE else vector[span]


def rows_of(matrix: Tensor, span: slice) -> Tensor:
    """The rows ``span`` of a matrix (or vector); itself where these are all."""
    return matrix if span.stop - span.start == matrix.shape[0] else matrix[span]


def spans(start: int, stop: int, step: int) -> Iterator[slice]:
    """Consecutive slices of at most ``step`` that cover [start, stop)."""
    for begin in range(start, stop, step):
        yield slice(begin, min(begin + step, stop))
