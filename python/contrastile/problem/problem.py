"""The problem: one frozen description of what a backend is asked to reduce."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .channels import Channel, Phi, Term
from .checks import (
    InputError,
    check_index,
    check_integers,
    check_number,
    check_switch,
    check_vector,
    shape,
)
from .pairs import Index, Pairs
from .scores import Scores

DEFAULT_WORKSPACE = 256 * 2**20
# On an H200 2.2 GB: at N = 65,536 in half precision, D = 256, a strip of one wave of its product.
SHARE = 64
MAX_CHANNELS = 3


@dataclass(frozen=True, eq=False)
class Problem:
    """What to reduce, over which pairs, to which sides. Holds no embedding.

    ``dtype`` is what is computed in, ``embedding_dtype`` what both embeddings are exact in.
    ``channels`` are log-sum-exps, ``terms`` are pair sums; a problem has one kind.
    ``triangle`` says that S is symmetric and only its upper triangle is computed.
    """

    caller: str
    n: int
    m: int
    d: int
    dtype: torch.dtype
    embedding_dtype: torch.dtype
    device: torch.device
    triangle: bool
    reductions: Sequence[Channel] | Sequence[Term]
    rows: bool
    columns: bool
    positives: Tensor | None
    row_thresholds: Tensor | None
    col_thresholds: Tensor | None
    ranks: bool
    row_counts: Tensor | None
    col_counts: Tensor | None
    backend: str
    workspace: int

    @classmethod
    def of(
        cls,
        caller: str,
        scores: Scores,
        reductions: Sequence[Channel] | Sequence[Term],
        kind: type[Channel] | type[Term],
        *,
        rows: bool = True,
        columns: bool = False,
        positives: Tensor | Index | None = None,
        ranks: bool = False,
        row_thresholds: Tensor | None = None,
        col_thresholds: Tensor | None = None,
        row_counts: Tensor | None = None,
        col_counts: Tensor | None = None,
        backend: str = "auto",
        workspace: int | None = None,
    ) -> Problem:
        """A checked problem over checked scores."""
        n, d = scores.query.shape
        m = n if scores.key is None else scores.key.shape[0]
        device = scores.query.device
        plural = {Channel: "channels", Term: "terms"}[kind]
        if not hasattr(reductions, "__len__"):
            got = type(reductions).__name__
            raise TypeError(f"{caller}: {plural} must be a list of {kind.__name__}, got {got}")
        if not 1 <= len(reductions) <= MAX_CHANNELS:
            raise InputError(
                f"{caller}: between 1 and {MAX_CHANNELS} {plural}, got {len(reductions)}"
            )
        for reduction in reductions:
            if not isinstance(reduction, kind):
                got = type(reduction).__name__
                raise TypeError(f"{caller}: {plural} must be {kind.__name__}, got {got}")
        check_switch(caller, "rows", rows)
        check_switch(caller, "columns", columns)
        check_switch(caller, "ranks", ranks)
        if not (rows or columns):
            raise InputError(f"{caller}: nothing to reduce, ask for rows or columns")
        for reduction in reductions:
            _check_reduction(caller, reduction, n, m)
        if positives is not None:
            positives = _check_positives(caller, positives, n, m)
        problem = cls(
            caller=caller,
            n=n,
            m=m,
            d=d,
            dtype=scores.dtype,
            embedding_dtype=scores.embedding_dtype,
            device=device,
            triangle=_is_triangle(scores, reductions, rows, columns),
            reductions=reductions,
            rows=rows,
            columns=columns,
            positives=positives,
            row_thresholds=_threshold(caller, "row_thresholds", row_thresholds, n),
            col_thresholds=_threshold(caller, "col_thresholds", col_thresholds, m),
            ranks=ranks,
            row_counts=_counts(caller, "row_counts", row_counts, n, rows),
            col_counts=_counts(caller, "col_counts", col_counts, m, columns),
            backend=backend,
            workspace=check_workspace(caller, workspace) or default_workspace(device),
        )
        if ranks:
            _check_ranks(problem)
        if problem.gaps:
            _check_gaps(problem, scores)
        return problem

    @property
    def gaps(self) -> bool:
        """Whether Jensen's gap of the last channel is asked for."""
        return self.row_counts is not None or self.col_counts is not None

    def tensors(self) -> Iterator[Tensor]:
        """The O(N + M) data that a run reads, forward and backward."""
        if self.positives is not None:
            yield self.positives
        for reduction in self.reductions:
            for pairs in _pairs_of(reduction):
                yield from (tensor for _, tensor, _ in pairs.extents())


def _pairs_of(reduction: Channel | Term) -> Iterator[Pairs]:
    if reduction.pairs is not None:
        yield reduction.pairs
    if isinstance(reduction, Channel):
        yield from (pairs for pairs, _ in reduction.class_log_weights)


def check_workspace(caller: str, workspace: object) -> int | None:
    """``workspace`` in bytes; None is the device's default."""
    if workspace is None:
        return None
    return int(check_number(caller, "workspace (bytes)", workspace, 1, 2**62))


@cache
def default_workspace(device: torch.device) -> int:
    """256 MiB; on a GPU a share of its memory, if that is more."""
    if device.type != "cuda":
        return DEFAULT_WORKSPACE
    return max(DEFAULT_WORKSPACE, torch.cuda.get_device_properties(device).total_memory // SHARE)


def _check_positives(caller: str, positives: Tensor | Index, n: int, m: int) -> Tensor:
    """The column of each row; only those that are not known to exist are looked at."""
    if isinstance(positives, Index):
        _check_pairs(caller, positives, n, m)
        if positives.within(m):
            return positives.columns
        positives = positives.columns
    return check_index(caller, "positives", positives, n, m)


def _threshold(caller: str, name: str, value: Tensor | None, length: int) -> Tensor | None:
    if value is None:
        return None
    return check_vector(caller, name, value, length).detach()


def _counts(
    caller: str, name: str, value: Tensor | None, length: int, wanted: bool
) -> Tensor | None:
    if value is None:
        return None
    if not wanted:
        raise InputError(f"{caller}: {name} are of a side that is not reduced; leave them out")
    return check_integers(caller, name, value, length)


def _check_reduction(caller: str, reduction: Channel | Term, n: int, m: int) -> None:
    if check_number(caller, "factor", reduction.factor, -1e30, 1e30) == 0.0:
        raise InputError(f"{caller}: factor must not be 0")
    if reduction.pairs is not None:
        _check_pairs(caller, reduction.pairs, n, m)
    if isinstance(reduction, Term):
        if not isinstance(reduction.phi, Phi):
            raise TypeError(f"{caller}: phi must be a Phi, got {reduction.phi!r}")
        if reduction.threshold is not None:
            check_vector(caller, "threshold", reduction.threshold, n)
        return
    if reduction.row_log_weight is not None:
        _check_log_weight(caller, "row_log_weight", reduction.row_log_weight, n)
    if reduction.col_log_weight is not None:
        _check_log_weight(caller, "col_log_weight", reduction.col_log_weight, m)
    for pairs, weight in reduction.class_log_weights:
        _check_pairs(caller, pairs, n, m)
        check_number(caller, "class log-weight", weight, -1e30, 1e30)


def _check_log_weight(caller: str, name: str, weight: Tensor, length: int) -> None:
    check_vector(caller, name, weight, length)
    if not bool(torch.isfinite(weight).all()):
        raise InputError(
            f"{caller}: {name} must be finite; leave pairs out by a predicate, not by a weight"
        )


def _check_pairs(caller: str, pairs: Pairs, n: int, m: int) -> None:
    if not isinstance(pairs, Pairs):
        raise TypeError(f"{caller}: pairs must be Pairs, got {type(pairs).__name__}")
    for name, tensor, axis in pairs.extents():
        length = (n, m)[axis]
        if tensor.shape != (length,):
            raise InputError(
                f"{caller}: {name} needs one entry a {('row', 'column')[axis]}, ({length},), "
                f"got {shape(tensor)}"
            )
        if tensor.dtype != torch.int64 or not tensor.is_contiguous():
            raise InputError(
                f"{caller}: {name} must be contiguous int64, got {tensor.dtype}; "
                "use .to(torch.int64).contiguous()"
            )


def _is_triangle(
    scores: Scores, reductions: Sequence[Channel] | Sequence[Term], rows: bool, columns: bool
) -> bool:
    """A symmetric S: one embedding set, one scale, no biases, symmetric pairs and weights."""
    if scores.key is not None or not rows or columns:
        return False
    if isinstance(scores.scale, Tensor) and scores.scale.numel() != 1:
        return False
    if scores.row_bias is not None or scores.col_bias is not None:
        return False
    for reduction in reductions:
        if reduction.pairs is not None and not reduction.pairs.symmetric:
            return False
        if isinstance(reduction, Term):
            if reduction.threshold is not None:
                return False
        elif (
            reduction.row_log_weight is not None
            or reduction.col_log_weight is not None
            or not all(pairs.symmetric for pairs, _ in reduction.class_log_weights)
        ):
            return False
    return True


def _check_ranks(problem: Problem) -> None:
    caller, first = problem.caller, problem.reductions[0]
    weighted = isinstance(first, Channel) and (
        first.row_log_weight is not None
        or first.col_log_weight is not None
        or first.class_log_weights
    )
    if weighted or first.factor <= 0:
        raise InputError(
            f"{caller}: ranks compare plain scores, so the first channel must have a positive "
            "factor and no log-weights"
        )
    if problem.columns and isinstance(first, Term) and first.threshold is not None:
        raise InputError(
            f"{caller}: ranks of columns compare scores, but the first term takes a threshold of "
            "each row off them; leave out its threshold, or columns"
        )
    if problem.row_thresholds is None and problem.positives is None:
        raise InputError(f"{caller}: ranks need positives or row_thresholds")
    if problem.columns and problem.col_thresholds is None and not _is_diagonal(problem):
        raise InputError(
            f"{caller}: ranks of columns need positives on the diagonal, or col_thresholds"
        )


def _check_gaps(problem: Problem, scores: Scores) -> None:
    last = problem.reductions[-1]
    weighted = not isinstance(last, Channel) or (
        last.row_log_weight is not None or last.col_log_weight is not None or last.class_log_weights
    )
    biased = scores.row_bias is not None or scores.col_bias is not None
    if weighted or biased or last.factor != 1.0:
        raise InputError(
            f"{problem.caller}: row_counts and col_counts ask for the gap of plain scores, so the "
            "last channel must have the factor 1 and no log-weights, and the scores no bias"
        )


def _is_diagonal(problem: Problem) -> bool:
    positives = problem.positives
    if positives is None or problem.n != problem.m:
        return False
    return torch.equal(positives, Index.diagonal(problem.n, device=problem.device).columns)
