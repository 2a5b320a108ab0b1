"""What torch's FlopCounterMode counts of a sweep's ops: the matrix products in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..backends import named
from ..engine.sweep.call import Call, buffers_of
from ..problem.sweep_spec import PlaneCode, SweepSpec, parse_sweep
from .shapes import GIVEN


def flops_of_sweep(tensors: list[Tensor], spec: str, wanted: str, **_: Any) -> int:
    """Of the planes."""
    lowered = parse_sweep(spec)
    return _planes(lowered, tensors) * _scores(lowered, tensors, backward=False)


def flops_of_sweep_gradients(
    tensors: list[Tensor],
    residual: list[Tensor],
    upstream: list[Tensor],
    given: str,
    spec: str,
    wanted: str,
    **_: Any,
) -> int:
    """Of the planes again, and of the gradients of their embeddings."""
    lowered = parse_sweep(spec)
    total = _planes(lowered, tensors) * _scores(lowered, tensors, backward=True)
    for code in _bases(lowered):
        depth = 2 * _depth(lowered, code, tensors)
        if wanted[code.query] == GIVEN:
            total += depth * _scores(lowered, tensors, backward=True)
        if wanted[code.other] == GIVEN:
            total += depth * _mirrored(lowered, tensors)
    return total


def _planes(spec: SweepSpec, tensors: list[Tensor]) -> int:
    """Flop of all planes for one pair."""
    return sum(2 * _depth(spec, code, tensors) for code in _bases(spec))


def _bases(spec: SweepSpec) -> Iterator[PlaneCode]:
    return (code for code in spec.planes if isinstance(code, PlaneCode))


def _depth(spec: SweepSpec, code: PlaneCode, tensors: list[Tensor]) -> int:
    """Features of a plane that the one before it in its chain does not have."""
    return len(range(int(tensors[code.query].shape[1]))[spec.slab(code)])


def _call(spec: SweepSpec, tensors: list[Tensor], backward: bool) -> Call:
    backend = named(spec.caller, spec.reductions[0].spec.backend)
    return Call.of(backend, spec, tensors, buffers_of(spec, backward))


def _scores(spec: SweepSpec, tensors: list[Tensor], backward: bool) -> int:
    """The pairs of all blocks."""
    return sum(rows * cols for rows, cols in _call(spec, tensors, backward).plan.shapes())


def _mirrored(spec: SweepSpec, tensors: list[Tensor]) -> int:
    """The pairs whose weights meet queries, too."""
    blocks = _call(spec, tensors, True).plan.blocks()
    counted = [block.shape for block in blocks if block.mirrored or not spec.triangle]
    return sum(rows * cols for rows, cols in counted)
