"""A problem's reductions as the kernels take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...engine.row_steps import LOG2E
from ...engine.vectors import ChannelVectors, TermVectors, Vectors, rounded
from ...problem import Channel, Problem, Term
from ...problem.pairs import Op, Pairs
from ..labels import may_keep_none

# As csrc/cuda/params.h has them.
MAX_STEPS, MAX_OPERANDS = 32, 4

Steps = list[tuple[int, int, int]]


def why_not_encodable(reductions: Sequence[Channel] | Sequence[Term]) -> str | None:
    """None, or which limit of the kernels the predicates of a problem go beyond."""
    steps = 0
    for reduction in reductions:
        classes = reduction.class_log_weights if isinstance(reduction, Channel) else ()
        if len(classes) > 1:
            return f"{len(classes)} classes with a weight of their own, at most 1"
        predicates = [reduction.pairs, *(pairs for pairs, _ in classes)]
        for pairs in predicates:
            if pairs is None:
                continue
            length, depth = _extent(pairs)
            steps += length
            if depth > MAX_OPERANDS:
                return f"a predicate with {depth} operands at once, at most {MAX_OPERANDS}"
    if steps > MAX_STEPS:
        return f"predicates of {steps} steps in all, at most {MAX_STEPS}"
    return None


def _extent(pairs: Pairs) -> tuple[int, int]:
    """Steps of a predicate's program, and the most operands it holds at once."""
    length = depth = deepest = 0
    for op, *_ in pairs.program():
        length += 1
        depth += 0 if op is Op.NOT else -1 if op in (Op.AND, Op.OR) else 1
        deepest = max(deepest, depth)
    return length, deepest


class Programs:
    """The kernels' object for a problem's reductions, and the tensors it refers to."""

    def __init__(self, kernels: Any, problem: Problem, vectors: Sequence[Vectors]) -> None:
        self.problem = problem
        self.alive: list[Tensor] = []
        self.reductions = kernels.Reductions()
        self.coefficients: list[Tensor] = []
        for own in vectors:
            self._add(own)

    def _add(self, own: Vectors) -> None:
        low: float | Tensor = 0.0
        members: Steps = []
        weight = None
        if isinstance(own, ChannelVectors):
            high, low = own.coef_hi, own.coef_lo
            for pairs, log_weight in own.reduction.class_log_weights:
                members, weight = self._steps(pairs), self._vector(log_weight * LOG2E)
        else:
            high = own.coef
        coef = self._vector(high)
        self.coefficients.append(coef)
        phi = int(own.reduction.phi) if isinstance(own, TermVectors) else 0
        self.reductions.add(
            self.address(coef),
            self.address(self._vector(low) if coef.dim() == 0 else self._each(low, coef)),
            coef.dim() > 0,
            self.address(self._vector(0.0) if own.row_offset is None else own.row_offset),
            own.row_offset is not None,
            self.address(own.col_offset),
            self._steps(own.reduction.pairs),
            members,
            self.address(weight),
            phi,
            isinstance(own, ChannelVectors) and may_keep_none(own.reduction.pairs),
        )

    def address(self, tensor: Tensor | None) -> int:
        """Of a tensor that lives as long as this object; 0 of none."""
        if tensor is None:
            return 0
        tensor = tensor.contiguous()
        self.alive.append(tensor)
        return tensor.data_ptr()

    def _steps(self, pairs: Pairs | None) -> Steps:
        if pairs is None:
            return []
        return [
            (int(op), *(self.address(tensor) for tensor in tensors))  # type: ignore[misc]
            for op, *tensors in pairs.program()
        ]

    def _vector(self, value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value.contiguous()
        return torch.full((), rounded(value), dtype=torch.float32, device=self.problem.device)

    @staticmethod
    def _each(value: float | Tensor, like: Tensor) -> Tensor:
        return value.contiguous() if isinstance(value, Tensor) else torch.full_like(like, value)
