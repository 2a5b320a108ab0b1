"""From dot products to what a stat takes the power or the function of: scale, biases, weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

import torch
from torch import Tensor

from ..problem.spec import NONE, Sizes, Spec, Stat
from .row_steps import LOG2E

FLOAT = Struct("f")


class Affine(NamedTuple):
    """Detached numbers that turn a dot product into a score: scale and biases.

    A scale for all rows is a float, or a 0-d tensor where reading it would halt the device; with
    biases and scales of rows it is fp64.
    """

    scale: float | Tensor
    row_bias: Tensor | None
    col_bias: Tensor | None

    @staticmethod
    def of(spec: Spec, tensors: Sequence[Tensor], on_host: bool) -> Affine:
        """Of the scale and the biases among ``tensors``; ``on_host``: a scale may be read."""
        scale: float | Tensor
        if spec.scale is not None:
            scale = spec.scale
        else:
            given = tensors[spec.scale_slot]
            if given.numel() != 1:
                scale = given.detach().double()
            else:
                scale = float(given) if on_host else _number(given.detach().double())
        row, col = (
            None if slot == NONE else tensors[slot].detach().double()
            for slot in (spec.row_bias, spec.col_bias)
        )
        return Affine(scale, row, col)

    @property
    def row_scale(self) -> Tensor | None:
        """The scale of each row, if they have one each."""
        return self.scale if isinstance(self.scale, Tensor) and self.scale.dim() else None


class Argument(NamedTuple):
    """``y = dot (high + low) + row_offset + col_offset``: the exponent of a log-sum-exp, in bits,
    or what a summed function is taken of.

    ``per_score`` is what a score is multiplied by in it. The coefficient of a dot product in an
    exponent is a sum of two numbers: rounded to one fp32 it would shift every exponent of a row the
    same way, and the positive, scaled elsewhere, would not follow. A scale for all rows that only
    the device knows is ``high`` as it is: kernels multiply and take apart.
    """

    per_score: float
    high: float | Tensor
    low: float | Tensor
    row_offset: Tensor | None
    col_offset: Tensor | None


def arguments_of(
    spec: Spec, sizes: Sizes, tensors: Sequence[Tensor], scores: Affine
) -> tuple[Argument, ...]:
    """The argument of each stat."""
    return tuple([_argument(stat, sizes.dtype, tensors, scores) for stat in spec.stats])


def score_argument(scores: Affine, dtype: torch.dtype) -> Argument:
    """Scores as they are summed for a gap, each dot product times its row's scale.

    One scale for all pairs is not applied here but to the sums: so no product is rounded.
    """
    own = scores.row_scale
    return Argument(1.0, 1.0 if own is None else own.to(dtype), 0.0, None, None)


def rounded(value: float) -> float:
    """A number as fp32 holds it; infinite beyond its range."""
    try:
        return float(FLOAT.unpack(FLOAT.pack(value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def _argument(
    stat: Stat, dtype: torch.dtype, tensors: Sequence[Tensor], scores: Affine
) -> Argument:
    row, col = (
        None if slot == NONE else tensors[slot] for slot in (stat.row_offset, stat.col_offset)
    )
    if stat.phi is not None:
        per_score, own = stat.factor, (-1.0, row)
    else:
        per_score, own = stat.factor * LOG2E, (LOG2E, row)
    high, low = _coefficient(stat, per_score, dtype, scores.scale)
    return Argument(
        per_score,
        high,
        low,
        _offset(dtype, (per_score, scores.row_bias), own),
        _offset(dtype, (per_score, scores.col_bias), (LOG2E, col)),
    )


def _coefficient(
    stat: Stat, per_score: float, dtype: torch.dtype, scale: float | Tensor
) -> tuple[float | Tensor, float | Tensor]:
    if isinstance(scale, Tensor) and not scale.dim():
        return scale, 0.0
    exact = scale * per_score
    if stat.phi is not None:
        return (exact.to(dtype) if isinstance(exact, Tensor) else exact), 0.0
    if isinstance(exact, Tensor):
        return apart(exact, dtype)
    near = exact if dtype == torch.float64 else rounded(exact)
    return near, exact - near


def apart(exact: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The nearest numbers of ``dtype``, and what they leave."""
    high = exact.to(dtype)
    return high, (exact - high).to(dtype)


def _number(scale: Tensor) -> Tensor:
    """As 0-d."""
    return scale.view(()) if scale.dim() else scale


def _offset(dtype: torch.dtype, *parts: tuple[float, Tensor | None]) -> Tensor | None:
    """The sum of factor * vector over the vectors that exist, formed in fp64; None without any."""
    total: Tensor | None = None
    for factor, vector in parts:
        if vector is not None:
            part = vector.double() * factor
            total = part if total is None else total + part
    return None if total is None else total.to(dtype)
