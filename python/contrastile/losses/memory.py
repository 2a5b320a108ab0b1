"""Embeddings of past batches beside those of a call: further columns, without a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from ..ops import ScoreStats, log_sum_exp, merge_log_sum_exp
from ..parallel import ALONE
from ..problem import Channel, Equal, InputError, Not
from ..problem.checks import check_embedding, check_integers, check_same_size, shape
from .ids import Groups, all_dot_sums
from .options import Options

# What memory= is: embeddings, and ids where the call has ids.
Memory: TypeAlias = Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Past:
    """Past embeddings of one side [K, D], and which of them share an id with the call's rows.

    With a group they are the same on all ranks: each rank compares its own rows with them, and
    nothing is exchanged.
    """

    rows: Tensor
    groups: Groups | None

    @property
    def others(self) -> Channel:
        """The pairs of a row and a past one of another id."""
        if self.groups is None:
            return Channel()
        return Channel(Not(Equal(self.groups.query, self.groups.key)))

    @property
    def same(self) -> Channel:
        """The pairs of a row and a past one of its id."""
        assert self.groups is not None
        return Channel(Equal(self.groups.query, self.groups.key))

    def log_sum_exp(
        self,
        options: Options,
        query: Tensor,
        scale: float | Tensor,
        channels: Sequence[Channel],
        thresholds: Tensor | None,
        counts: Tensor | None = None,
    ) -> ScoreStats:
        """Of the scores with all past rows; ranks if stats are wanted, the gap if ``counts`` are
        given.
        """
        return log_sum_exp(
            query,
            self.rows,
            scale=scale,
            channels=channels,
            ranks=options.return_stats,
            row_thresholds=None if thresholds is None else thresholds.detach(),
            row_counts=counts,
            **options.engine,
        )

    def counts(self) -> Tensor:
        """For each row, the number of past rows of its id."""
        assert self.groups is not None
        return self.groups.counts()

    def dot_sums(self, query: Tensor) -> Tensor:
        """For each row, the sum of its dot products with them."""
        assert self.groups is not None
        return self.groups.dot_sums(query, self.rows)

    def included(self, query: Tensor) -> tuple[Tensor, Tensor | int]:
        """For each row, the sum of its dot products with the others, and their number."""
        dots, number = all_dot_sums(ALONE, query, self.rows), self.rows.shape[0]
        if self.groups is None:
            return dots, number
        return dots - self.dot_sums(query), number - self.counts()


def past_of(
    options: Options,
    memory: object,
    names: Sequence[str],
    ids: tuple[str, Tensor] | None,
    x: Tensor,
) -> tuple[Past, ...]:
    """What ``memory`` has of each of ``names``; nothing if it is None.

    ``ids``: the name and ids of the call's rows; with them the last part of ``memory`` are ids.
    ``x``: embeddings of the call.
    """
    if memory is None:
        return ()
    caller = options.caller
    wanted = [*names, *([] if ids is None else [ids[0]])]
    if not isinstance(memory, (tuple, list)) or len(memory) != len(wanted):
        got = len(memory) if isinstance(memory, (tuple, list)) else type(memory).__name__
        raise InputError(
            f"{caller}: memory must be a tuple of past ({', '.join(wanted)}), got {got}; ids are "
            "part of it if, and only if, the call has ids"
        )
    first = f"{names[0]} of memory"
    for name, part in zip(names, memory, strict=False):
        check_embedding(caller, f"{name} of memory", part)
        check_same_size(caller, **{names[0]: x, f"{name} of memory": part})
        if len(part) != len(memory[0]):
            raise InputError(
                f"{caller}: row i of all parts of memory belongs together, got {first} "
                f"{shape(memory[0])} and {name} of memory {shape(part)}"
            )
    groups = None
    if ids is not None:
        name, own = ids
        past_ids = check_integers(caller, f"{name} of memory", memory[-1], len(memory[0]))
        groups = Groups.of(own, past_ids, options.ignore_label)
    sides = memory[: len(names)]
    return tuple([Past(options.embeddings(side.detach()), groups) for side in sides])


def merged(stats: ScoreStats, more: ScoreStats) -> ScoreStats:
    """Stats with those of further columns in the log-sum-exps and ranks of rows."""
    rows = map(merge_log_sum_exp, stats.rows, more.rows)
    return stats._replace(rows=tuple(rows), row_rank=_sum(stats.row_rank, more.row_rank))


def merged_columns(stats: ScoreStats, more: ScoreStats) -> ScoreStats:
    """The same where the rows of ``more`` are the columns of ``stats``."""
    columns = map(merge_log_sum_exp, stats.columns, more.rows)
    return stats._replace(columns=tuple(columns), col_rank=_sum(stats.col_rank, more.row_rank))


def _sum(rank: Tensor | None, more: Tensor | None) -> Tensor | None:
    return None if rank is None or more is None else rank + more
