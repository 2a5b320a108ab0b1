"""What torch's FlopCounterMode counts of the registered ops: the matrix products in them.

Of what runs eagerly on a CPU it sees the products themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ..backends import named
from ..engine.forward import plans_of
from ..engine.plan import Block
from ..problem.spec import NONE, Sizes, Spec, parse
from .selection_flops import flops_of_max_sim, flops_of_max_sim_gradients, flops_of_select
from .shapes import GIVEN
from .sweep_flops import flops_of_sweep, flops_of_sweep_gradients

COUNTER = "torch.utils.flop_counter"


def teach_counters() -> None:
    """Tell torch's counters of flops about our ops, those that count by now too.

    They are not imported for it: torch.utils.flop_counter imports Triton.
    """
    module = sys.modules.get(COUNTER)
    if module is None:
        return
    counters = [getattr(mode, "counter", None) for mode in _get_current_dispatch_mode_stack()]
    taught = [counter for counter in counters if isinstance(counter, module.FlopCounterMode)]
    ops = torch.ops.contrastile
    for registry in (module.flop_registry, *(counter.flop_registry for counter in taught)):
        registry.setdefault(ops.reduce, flops_of_reduce)
        registry.setdefault(ops.weigh, flops_of_weigh)
        registry.setdefault(ops.sweep, flops_of_sweep)
        registry.setdefault(ops.sweep_gradients, flops_of_sweep_gradients)
        registry.setdefault(ops.select, flops_of_select)
        registry.setdefault(ops.max_sim, flops_of_max_sim)
        registry.setdefault(ops.max_sim_gradients, flops_of_max_sim_gradients)


def flops_of_reduce(
    tensors: list[Tensor], spec: str, needs: str, kept: int, at_once: bool, **_: Any
) -> int:
    """Of S; and of both gradients, where they are made in the forward pass."""
    lowered = parse(spec)
    sizes = _sizes(lowered, tensors)
    scores = sum(_scores(lowered, sizes))
    return 2 * sizes.d * (scores + at_once * _products(lowered, sizes, needs))


def flops_of_weigh(
    tensors: list[Tensor],
    residual: list[Tensor],
    upstream: list[Tensor],
    given: str,
    spec: str,
    needs: str,
    kept: int,
    at_once: bool,
    **_: Any,
) -> int:
    """Of S, less what was kept of it, and of both gradients."""
    lowered = parse(spec)
    if at_once or not _of_stats(lowered, given):
        return 0
    sizes = _sizes(lowered, tensors)
    scores = sum(_scores(lowered, sizes)) - kept
    return 2 * sizes.d * (scores + _products(lowered, sizes, needs))


def _sizes(spec: Spec, tensors: list[Tensor]) -> Sizes:
    """As numbers, also where they are symbols."""
    sizes = Sizes.of(spec, tensors)
    return sizes._replace(n=int(sizes.n), m=int(sizes.m), d=int(sizes.d))


def _blocks(spec: Spec, sizes: Sizes) -> Iterator[Block]:
    return plans_of(named(spec.caller, spec.backend), spec, sizes).plain.blocks()


def _scores(spec: Spec, sizes: Sizes) -> Iterator[int]:
    """The scores of each block."""
    for block in _blocks(spec, sizes):
        rows, cols = block.shape
        yield rows * cols


def _products(spec: Spec, sizes: Sizes, needs: str) -> int:
    """The scores whose weights meet keys, and those that meet queries."""
    query, key = needs[0] == GIVEN, needs[1] == GIVEN
    if spec.key == NONE:
        key = query
    pairs = zip(_blocks(spec, sizes), _scores(spec, sizes), strict=True)
    return sum(
        scores * (query + (key and (block.mirrored or not spec.triangle)))
        for block, scores in pairs
    )


def _of_stats(spec: Spec, given: str) -> bool:
    """Whether more has a gradient than the scores of the positives alone."""
    if spec.rule is not None:
        return GIVEN in given
    place = len(spec.stats) * (spec.rows + spec.columns)
    after = place + (spec.positives != NONE)
    return GIVEN in given[:place] + given[after:]
