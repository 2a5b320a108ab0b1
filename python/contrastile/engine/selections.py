"""Selections: columns that are picked of each row, by one walk over the scores, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..problem.spec import QUERY, Sizes, Spec
from .first_order import BackwardOnly, first_order
from .gather import gathered_gradients
from .job import Backend, Job, job_of
from .picked import Picked
from .plan import plan_of

# What a pass in plain torch spends on a score: it, a copy, and numbers and places that are sorted.
SCORE_BYTES = 40


class Choice(NamedTuple):
    """What is picked: of each row ``k`` columns, or of each group that starts at ``starts`` one."""

    spec: Spec
    k: int
    starts: Tensor | None

    @property
    def width(self) -> int:
        """How many columns of each row are picked."""
        return self.k if self.starts is None else self.starts.shape[0] - 1

    def made(self, backend: Backend, tensors: Sequence[Tensor]) -> Picked:
        """By one walk over the scores of these tensors."""
        sizes = Sizes.of(self.spec, tensors)
        selector = backend.selector(selection_job(backend, self.spec, sizes, tensors))
        return selector.top_k(self.k) if self.starts is None else selector.group_max(self.starts)


def selection_job(backend: Backend, spec: Spec, sizes: Sizes, tensors: Sequence[Tensor]) -> Job:
    """The scores of these tensors in blocks of which one at a time fits the workspace."""
    tile = replace(backend.tile(spec, sizes), itemsize=SCORE_BYTES)
    return job_of(backend, spec, sizes, plan_of(spec, sizes, tile), tensors)


class Select(BackwardOnly):
    """``apply(backend, choice, tensors, query, key)``: values and columns; only what was picked
    has gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        backend: Backend,
        choice: Choice,
        tensors: Sequence[Tensor],
        query: Tensor,
        key: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.caller = choice.spec.caller
        picked = choice.made(backend, tensors)
        ctx.save_for_backward(query, key, picked.columns)
        ctx.mark_non_differentiable(picked.columns)
        return picked

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, (query, key, columns) = upstream[0], ctx.saved_tensors
        if grad is None:
            return None, None, None, None, None
        wanted = ctx.needs_input_grad[3:]
        listed = rows_of_picked(columns), columns.flatten(), grad.flatten()
        return None, None, None, *gathered_gradients(query, key, *listed, wanted)


def rows_of_picked(columns: Tensor) -> Tensor:
    """The row of each entry of [N, k] columns, row after row."""
    n, k = columns.shape
    return torch.arange(n, device=columns.device).repeat_interleave(k, output_size=n * k)


def operands_of(spec: Spec, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Queries and keys."""
    query = tensors[QUERY]
    return query, tensors[spec.key] if spec.key >= 0 else query
