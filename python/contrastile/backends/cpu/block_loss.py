"""A loss of rows whose scores are a single block: each pass in one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...engine.job import Job
from ...engine.plan import Block
from ...engine.rules import RULE_NAMES
from ...problem.row_loss import REDUCTIONS, SEVERAL
from ...problem.spec import NONE, Rule, Sizes, Spec
from .compiled import Scratch, lowered

Number = TypeVar("Number", float, Tensor, float | Tensor, Tensor | None)


def losses_of(rule: Rule, sizes: Sizes) -> int:
    """How many losses there are: one a row; of several positives also one a column."""
    if rule.name != SEVERAL:
        return sizes.n
    return sizes.n * (rule.row_count != NONE) + sizes.m * (rule.col_count != NONE)


class CompiledBlockLoss:
    """The compiled code is that of NativeReducer, rules.evaluated() and NativeWeigher; of several
    positives that of csrc/several.cpp.
    """

    def __init__(self, module: ModuleType, spec: Spec, sizes: Sizes, rule: Rule) -> None:
        self._compiled = module.BlockLoss(
            lowered(module, spec, sizes),
            RULE_NAMES.index(rule.name),
            REDUCTIONS.index(rule.reduction),
            rule.share,
            rule.skip,
            rule.some_without,
            spec.positives,
            rule.weights,
            rule.omega,
            rule.row_count,
            rule.col_count,
        )
        self._arena = self._compiled.arena_size(sizes.n, sizes.m)
        self._loss = (losses_of(rule, sizes),) if rule.reduction == "none" else ()
        self._dtype = sizes.dtype
        self._vectors = [slot for slot in (rule.weights, rule.omega) if slot != NONE]

    def reads(self, tensors: Sequence[Tensor]) -> bool:
        """Whether weights and omega are of the compute dtype, their numbers in memory."""
        for slot in self._vectors:
            vector = tensors[slot]
            if vector.dtype != self._dtype or not vector.is_contiguous() or vector.is_neg():
                return False
        return True

    def reduce(self, job: Job) -> tuple[Tensor, Tensor]:
        """The loss; and the arena, all that the weigher needs in one piece of memory."""
        sizes, scores, block = job.sizes, job.scores, job.plan.strips[0][0]
        dots = job.kept_dots(block)
        dots = job.dot_products(block, Scratch(job).room(block) if dots is None else dots)
        loss = torch.empty(self._loss, dtype=sizes.dtype, device=sizes.device)
        # Bytes: what keeps saved numbers in fewer bits must leave them alone.
        arena = torch.empty(self._arena, dtype=torch.uint8, device=sizes.device)
        self._compiled.reduce(
            job.tensors,
            job.arguments,
            sizes.n,
            sizes.m,
            torch.get_num_threads(),
            _in_memory(scores.scale),
            _in_memory(scores.row_bias),
            _in_memory(scores.col_bias),
            dots,
            loss,
            arena,
        )
        return loss, arena

    def weigher(self, job: Job, arena: Tensor, grad: Tensor, products: bool) -> BlockWeigher:
        """The weights for a gradient of the loss."""
        return BlockWeigher(self._compiled, job, arena, grad, products)


class BlockWeigher:
    """G of the block; the sum of its products is made in the same call."""

    unit: Tensor | None = None
    _products: Tensor | None = None

    def __init__(
        self, compiled: Any, job: Job, arena: Tensor, grad: Tensor, products: bool
    ) -> None:
        self._compiled, self._job, self._arena = compiled, job, arena
        self._grad = float(grad) if grad.dim() == 0 else _in_memory(grad)
        self._each = job.scores.row_scale is not None
        if products:
            shape = (job.sizes.n,) if self._each else ()
            self._products = torch.empty(shape, dtype=torch.float64, device=job.sizes.device)

    def weights(self, block: Block) -> Tensor:
        """G of the block, in place of its dot products unless they are kept."""
        job, sizes = self._job, self._job.sizes
        out = Scratch(job).room(block)
        dots = job.kept_dots(block)
        if dots is None:
            dots = job.dot_products(block, out)
        self._compiled.weigh(
            job.tensors,
            job.arguments,
            sizes.n,
            sizes.m,
            torch.get_num_threads(),
            self._arena,
            self._grad,
            dots,
            out,
            self._products,
            self._each,
        )
        return out

    def products(self) -> Tensor | None:
        """Row sums of G_ij <q_i, k_j>; their total, where one scale serves all rows."""
        return self._products


def _in_memory(value: Number) -> Number:
    """A number, or a vector with its entries one after the other: a bias may be an expanded one."""
    return value.contiguous().resolve_neg() if isinstance(value, Tensor) else value
