"""Embeddings of unit length."""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.unit_length import UnitLength, unit_rows
from ..problem.plain import is_traced


def unit_length(x: Tensor, caller: str = "unit_length") -> Tensor:
    r"""Rows divided by their Euclidean length.

    .. math:: u_i = x_i / |x_i|, \qquad u_i = 0 \text{ with gradient } 0 \text{ where } x_i = 0

    Differentiable once; a trace sees the formula in torch's operations.

    Args:
        x: [N, D], fp32, fp64, bf16 or fp16, that has passed
            :func:`~contrastile.problem.storage.check_storage`.
        caller: the function that errors name.

    Returns:
        [N, D] in fp32, fp64 if ``x`` is.

    >>> import torch
    >>> from contrastile.ops.unit_length import unit_length
    >>> unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    if is_traced():
        return _formula(x)
    if x.requires_grad and torch.is_grad_enabled():
        made: Tensor = UnitLength.apply(caller, x)
        return made
    return unit_rows(x)[0]


def _formula(x: Tensor) -> Tensor:
    wide = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    length = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    zero = length <= torch.finfo(wide.dtype).tiny
    return wide * torch.where(zero, 0.0, 1.0 / torch.where(zero, 1.0, length))
