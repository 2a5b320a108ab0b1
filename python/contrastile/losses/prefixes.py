"""One loss of several prefixes of the same embeddings, its pass over the scores shared by all.

A loss asks for the stats of its scores in one place, through its columns. It is called once for
each prefix until it asks; all are answered from one sweep; and it is called again, with its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..ops import ScoreStats, log_sum_exp, pair_sum, sweep
from ..ops.unit_length import unit_length
from ..parallel import Alone, OwnColumns
from ..problem import Plane, Reduction
from .options import wide_dtype

# A loss of one of the prefixes, among these peers.
Call = Callable[[Alone], Any]


class Request(NamedTuple):
    """What a loss asks of its columns."""

    query: Tensor
    key: Tensor | None
    options: dict[str, Any]


class Asked(Exception):
    """A loss has come to where it asks, and has no answer yet: with its request."""


class NotShared(Exception):
    """A loss has no pass over its scores that could be shared."""


class AskingColumns(OwnColumns):
    """Columns whose stats are not computed but asked for, the first time."""

    def log_sum_exp(self, query: Tensor, key: Tensor | None = None, **options: Any) -> NoReturn:
        """Ask."""
        raise Asked(Request(query, key, options))

    pair_sum = log_sum_exp

    def matrix_everywhere(self, rows: Tensor) -> NoReturn:
        """Keys as they are: their loss is a sweep of its own."""
        raise NotShared


class Asking(Alone):
    """No other process takes part, and the first stats are asked for."""

    def columns(self, name: str, items: Tensor, times: int = 1) -> AskingColumns:
        """Those of this process."""
        return AskingColumns(times * items.shape[0])


class AnsweredColumns(OwnColumns):
    """Columns whose first stats are there."""

    def __init__(self, count: int, answers: list[ScoreStats]) -> None:
        super().__init__(count)
        self._answers = answers

    def log_sum_exp(self, query: Tensor, key: Tensor | None = None, **options: Any) -> ScoreStats:
        """The answer; from then on what is computed."""
        return self._answers.pop() if self._answers else log_sum_exp(query, key, **options)

    def pair_sum(self, query: Tensor, key: Tensor | None = None, **options: Any) -> ScoreStats:
        """The answer; from then on what is computed."""
        return self._answers.pop() if self._answers else pair_sum(query, key, **options)


class Answered(Alone):
    """No other process takes part, and the first stats are there."""

    def __init__(self, answer: ScoreStats) -> None:
        self._answers = [answer]

    def columns(self, name: str, items: Tensor, times: int = 1) -> AnsweredColumns:
        """Those of this process."""
        return AnsweredColumns(times * items.shape[0], self._answers)


def shared_sweep(caller: str, whole: Call, calls: Sequence[Call], dims: Sequence[int]) -> list[Any]:
    """What each call, of the prefix of so many features, returns. ``whole`` is the call for the
    embeddings as they are: neither shortened nor divided by their lengths.
    """
    full = _request(whole)
    asked = [_request(call) for call in calls]
    # The longest prefix has no factors then: a pass over its numbers less, and less rounding.
    query = unit_length(full.query[:, : dims[-1]], caller)
    key = None if full.key is None else unit_length(full.key[:, : dims[-1]], caller)
    planes, reductions = [], []
    for number, (own, size) in enumerate(zip(asked, dims, strict=True)):
        of_rows = of_cols = None
        if size < dims[-1]:
            of_rows = _reciprocal_lengths(query, size)
            of_cols = of_rows if key is None else _reciprocal_lengths(key, size)
        planes.append(Plane(query, key, of_rows, of_cols, (0, size)))
        options = dict(own.options)
        engine = {name: options.pop(name) for name in ("backend", "workspace", "caller")}
        reductions.append(Reduction(number, **options))
    answers = sweep(planes, reductions, **{**engine, "caller": caller})
    return [call(Answered(answer)) for call, answer in zip(calls, answers, strict=True)]


def _request(call: Call) -> Request:
    try:
        call(Asking())
    except Asked as asked:
        request: Request = asked.args[0]
        return request
    raise NotShared


def _reciprocal_lengths(x: Tensor, size: int) -> Tensor:
    """One over the lengths of prefixes; 0 of those that are zero, as ``normalize=True`` has it."""
    wide = wide_dtype(x)
    lengths = torch.linalg.vector_norm(x[:, :size], dim=1, dtype=wide)
    zero = lengths <= torch.finfo(wide).tiny
    return torch.where(zero, 0.0, 1.0 / torch.where(zero, 1.0, lengths))
