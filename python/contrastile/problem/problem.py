"""The problem: one frozen description of what a backend is asked to reduce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .channels import Channel, Phi, Term
from .checks import (
    InputError,
    check_index,
    check_integers,
    check_number,
    check_switch,
    check_tensor,
    check_vector,
    shape,
)
from .comparisons import as_read
from .pairs import Diagonal, Index, Instruction, Kind, Pairs, split_holes
from .plain import may_be_read
from .row_loss import RowLoss, check_row_loss
from .scores import Scores
from .spec import Program, Rule, Slots, Spec, Stat

DEFAULT_WORKSPACE = 256 * 2**20
# On an H200 2.2 GB: at N = 65,536 in half precision, D = 256, a strip of one wave of its product.
SHARE = 64
MAX_CHANNELS = 3
PLURAL = {Channel: "channels", Term: "terms"}


class Problem(NamedTuple):
    """What to reduce, over which pairs, to which sides, in the user's terms and checked.

    ``reductions`` are log-sum-exps (channels) or pair sums (terms); a problem has one kind.
    ``triangle`` says that S is symmetric and only its upper triangle is computed.
    """

    caller: str
    scores: Scores
    triangle: bool
    reductions: Sequence[Channel] | Sequence[Term]
    rows: bool
    columns: bool
    positives: Index | None
    row_thresholds: Tensor | None
    col_thresholds: Tensor | None
    ranks: bool
    row_counts: Tensor | None
    col_counts: Tensor | None
    backend: str
    workspace: int
    row_loss: RowLoss | None

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
        row_loss: RowLoss | None = None,
        planes: int = 0,
    ) -> Problem:
        """A checked problem over checked scores; ``planes``: how many its predicates may name."""
        query, key = scores.query, scores.key
        n = query.shape[0]
        m = n if key is None else key.shape[0]
        plural = PLURAL[kind]
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
            _check_reduction(caller, reduction, n, m, planes)
        if positives is not None:
            positives = _check_positives(caller, positives, n, m)
        problem = cls(
            caller=caller,
            scores=scores,
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
            workspace=check_workspace(caller, workspace) or default_workspace(query.device),
            row_loss=row_loss,
        )
        if ranks:
            _check_ranks(problem)
        if problem.gaps:
            _check_gaps(problem, scores)
        if row_loss is not None:
            sides = n if rows else None, m if columns else None
            check_row_loss(caller, row_loss, reductions, sides, positives is not None)
        return problem

    @property
    def gaps(self) -> bool:
        """Whether Jensen's gap of the last channel is asked for."""
        return self.row_counts is not None or self.col_counts is not None

    def lower(self, planes: torch.dtype = torch.float32) -> tuple[Spec, list[Tensor]]:
        """The same without tensors, and the tensors; ``planes``: their dtype, if there are some."""
        scores, slots = self.scores, Slots(planes)
        slots.add(scores.query)
        key = slots.add(scores.key)
        scale = scores.scale
        scale_slot = slots.add(scale if isinstance(scale, Tensor) else None)
        row_bias, col_bias = slots.add(scores.row_bias), slots.add(scores.col_bias)
        positives = slots.of(None if self.positives is None else self.positives.columns)
        spec = Spec(
            caller=self.caller,
            backend=self.backend,
            tf32=False,
            workspace=self.workspace,
            triangle=self.triangle,
            rows=self.rows,
            columns=self.columns,
            ranks=self.ranks,
            scale=None if isinstance(scale, Tensor) else float(scale),
            stats=tuple([_lowered(reduction, slots) for reduction in self.reductions]),
            rule=None if self.row_loss is None else _rule(self.row_loss, slots),
            key=key,
            scale_slot=scale_slot,
            row_bias=row_bias,
            col_bias=col_bias,
            positives=positives,
            row_thresholds=slots.of(self.row_thresholds),
            col_thresholds=slots.of(self.col_thresholds),
            row_counts=slots.of(self.row_counts),
            col_counts=slots.of(self.col_counts),
        )
        return spec, slots.tensors


def _rule(loss: RowLoss, slots: Slots) -> Rule:
    return Rule(
        name=loss.rule,
        reduction=loss.reduction,
        share=loss.share,
        weights=slots.of(loss.weights),
        omega=slots.of(loss.omega),
        skip=loss.skip,
        some_without=loss.some_without,
        shows=loss.shows,
        row_count=slots.of(loss.row_count),
        col_count=slots.of(loss.col_count),
    )


def _lowered(reduction: Channel | Term, slots: Slots) -> Stat:
    holes, rest = split_holes(reduction.pairs)
    classes: tuple[tuple[Program, float], ...] = ()
    if isinstance(reduction, Term):
        phi: int | None = int(reduction.phi)
        row_offset, col_offset = slots.of(reduction.threshold), slots.of(None)
    else:
        phi = None
        row_offset = slots.of(reduction.row_log_weight)
        col_offset = slots.of(reduction.col_log_weight)
        classes = tuple(
            [(_program(pairs, slots), float(w)) for pairs, w in reduction.class_log_weights]
        )
    return Stat(
        phi=phi,
        factor=float(reduction.factor),
        holes=tuple([slots.of(hole) for hole in holes]),
        program=_program(rest, slots),
        classes=classes,
        row_offset=row_offset,
        col_offset=col_offset,
    )


def _program(pairs: Pairs | None, slots: Slots) -> Program:
    if pairs is None:
        return ()
    return tuple([_lowered_step(step, slots) for step in pairs.program()])


def _lowered_step(step: Instruction, slots: Slots) -> tuple[int, int, int]:
    op, left, right = step
    if isinstance(right, int):
        assert left is not None, "a plane without limits"
        return int(op), slots.of(as_read(left, slots.planes)), right
    return int(op), slots.of(left), slots.of(right)


def check_workspace(caller: str, workspace: object) -> int | None:
    """``workspace`` in bytes; None is the device's default."""
    if workspace is None:
        return None
    return int(check_number(caller, "workspace (bytes)", workspace, 1, 2**62))


def default_workspace(device: torch.device) -> int:
    """256 MiB; on a GPU a share of its memory, if that is more.

    Not cached: torch.compile warns about caches, and torch knows the properties of its devices.
    """
    if device.type != "cuda":
        return DEFAULT_WORKSPACE
    return max(DEFAULT_WORKSPACE, torch.cuda.get_device_properties(device).total_memory // SHARE)


def _check_positives(caller: str, positives: Tensor | Index, n: int, m: int) -> Index:
    """The column of each row; only those that are not known to exist are looked at."""
    if not isinstance(positives, Index):
        return Index(check_index(caller, "positives", positives, n, m))
    _check_pairs(caller, positives, n, m)
    if not positives.within(m):
        check_index(caller, "positives", positives.columns, n, m)
    return positives


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


def _check_reduction(caller: str, reduction: Channel | Term, n: int, m: int, planes: int) -> None:
    if check_number(caller, "factor", reduction.factor, -1e30, 1e30) == 0.0:
        raise InputError(f"{caller}: factor must not be 0")
    if reduction.pairs is not None:
        _check_pairs(caller, reduction.pairs, n, m, planes)
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
        _check_pairs(caller, pairs, n, m, planes)
        check_number(caller, "class log-weight", weight, -1e30, 1e30)


def _check_log_weight(caller: str, name: str, weight: Tensor, length: int) -> None:
    check_vector(caller, name, weight, length)
    if may_be_read(weight) and not bool(torch.isfinite(weight).all()):
        raise InputError(
            f"{caller}: {name} must be finite; leave pairs out by a predicate, not by a weight"
        )


def _check_pairs(caller: str, pairs: Pairs, n: int, m: int, planes: int = 0) -> None:
    if not isinstance(pairs, Pairs):
        raise TypeError(f"{caller}: pairs must be Pairs, got {type(pairs).__name__}")
    for name, given, axis, kind, plane in pairs.extents():
        tensor, length = check_tensor(caller, name, given), (n, m)[axis]
        if tensor.shape != (length,):
            raise InputError(
                f"{caller}: {name} needs one entry a {('row', 'column')[axis]}, ({length},), "
                f"got {shape(tensor)}"
            )
        if plane is not None:
            _check_plane(caller, plane, planes)
        if kind is not Kind.INTEGERS:
            if tensor.is_complex() or (kind is Kind.FLOATS and not tensor.is_floating_point()):
                raise InputError(f"{caller}: {name} must be {kind.value}, got {tensor.dtype}")
        elif tensor.dtype != torch.int64 or not tensor.is_contiguous():
            raise InputError(
                f"{caller}: {name} must be {kind.value}, got {tensor.dtype}; "
                "use .to(torch.int64).contiguous()"
            )


def _check_plane(caller: str, plane: int, planes: int) -> None:
    if not planes:
        raise InputError(
            f"{caller}: Above compares the numbers of a plane, and only ops.sweep has planes"
        )
    if not 0 <= plane < planes:
        raise InputError(f"{caller}: there are {planes} planes, Above asks for number {plane}")


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
    """Whether row i belongs to column i, as far as that can be known."""
    scores, positives = problem.scores, problem.positives
    n, m = scores.query.shape[0], (scores.query if scores.key is None else scores.key).shape[0]
    if positives is None or n != m:
        return False
    if isinstance(positives, Diagonal):
        return positives.offset == 0
    own = positives.columns
    return may_be_read(own) and torch.equal(own, Index.diagonal(n, device=own.device).columns)
