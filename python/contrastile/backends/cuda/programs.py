"""Stats as the kernels take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...engine.arguments import Argument, apart, rounded
from ...engine.job import Job
from ...engine.row_steps import LOG2E
from ...problem.pairs import Op
from ...problem.spec import NONE, Program, Stat

# As csrc/cuda/params.h has them.
MAX_STEPS, MAX_OPERANDS = 32, 4
NAMES: dict[int, str] = {int(op): op.name for op in Op}
KNOWN = frozenset({Op.INDEX, Op.EQUAL, Op.OVERLAP, Op.NOT, Op.AND, Op.OR})

Steps = list[tuple[int, int, int]]


def why_not_encodable(stats: Sequence[Stat]) -> str | None:
    """None, or which limit of the kernels the predicates of a problem go beyond."""
    steps = 0
    for stat in stats:
        if len(stat.classes) > 1:
            return f"{len(stat.classes)} classes with a weight of their own, at most 1"
        for program in (pairs_of(stat), *(members for members, _ in stat.classes)):
            unknown = [NAMES.get(op, op) for op, *_ in program if op not in KNOWN]
            if unknown:
                return f"it does not know the predicates {unknown}"
            steps += len(program)
            depth = _operands(program)
            if depth > MAX_OPERANDS:
                return f"a predicate with {depth} operands at once, at most {MAX_OPERANDS}"
    if steps > MAX_STEPS:
        return f"predicates of {steps} steps in all, at most {MAX_STEPS}"
    return None


def pairs_of(stat: Stat) -> Program:
    """The predicate of the pairs that a stat keeps: no hole, and what its program says."""
    parts: list[Program] = [
        ((int(Op.INDEX), slot, NONE), (int(Op.NOT), NONE, NONE)) for slot in stat.holes
    ]
    if stat.program:
        parts.append(stat.program)
    found: Program = ()
    for part in parts:
        found = (*found, *part, (int(Op.AND), NONE, NONE)) if found else part
    return found


def _operands(program: Program) -> int:
    """The most operands that it holds at once."""
    depth = deepest = 0
    for op, *_ in program:
        depth += 0 if op == Op.NOT else -1 if op in (Op.AND, Op.OR) else 1
        deepest = max(deepest, depth)
    return deepest


class Programs:
    """The kernels' object for the stats of a job, and the tensors it refers to."""

    def __init__(self, kernels: Any, job: Job) -> None:
        self.job = job
        self.alive: list[Tensor] = []
        self.reductions = kernels.Reductions()
        self.coefficients: list[Tensor] = []
        for stat, argument in zip(job.spec.stats, job.arguments, strict=True):
            self._add(stat, argument)

    def _add(self, stat: Stat, argument: Argument) -> None:
        members: Steps = []
        weight = None
        for program, log_weight in stat.classes:
            members, weight = self._steps(program), self._vector(log_weight * LOG2E)
        high, low, row = argument.high, argument.low, argument.row_offset
        if isinstance(high, Tensor) and not high.dim():
            high, low = apart(high * argument.per_score, torch.float32)
        coef = self._vector(high)
        self.coefficients.append(coef)
        self.reductions.add(
            self.address(coef),
            self.address(self._like(low, coef)),
            coef.dim() > 0,
            self.address(self._vector(0.0) if row is None else row),
            row is not None,
            self.address(argument.col_offset),
            self._steps(pairs_of(stat)),
            members,
            self.address(weight),
            stat.phi or 0,
            stat.phi is None and stat.may_keep_none,
        )

    def address(self, tensor: Tensor | None) -> int:
        """Of a tensor that lives as long as this object; 0 of none."""
        if tensor is None:
            return 0
        tensor = tensor.contiguous()
        self.alive.append(tensor)
        return tensor.data_ptr()

    def _steps(self, program: Program) -> Steps:
        tensor = self.job.tensor
        return [(op, self.address(tensor(a)), self.address(tensor(b))) for op, a, b in program]

    def _vector(self, value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value.contiguous()
        return torch.full((), rounded(value), dtype=torch.float32, device=self.job.sizes.device)

    def _like(self, value: float | Tensor, high: Tensor) -> Tensor:
        """One number, or one a row, as the high part of a coefficient has."""
        if isinstance(value, Tensor) or not high.dim():
            return self._vector(value)
        return torch.full_like(high, value)
