"""The functions of pair sums and their slopes, in plain torch and in place of the argument."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..problem import Phi

# From here on e^-x is lost beside x, in fp64 too.
LINEAR = 40.0


def value(phi: Phi, x: Tensor, dtype: torch.dtype) -> Tensor:
    """phi(x) of an fp64 argument; what is not exact is evaluated in ``dtype``, twice as fast."""
    if phi is Phi.SOFTPLUS:
        return x.copy_(F.softplus(x.to(dtype), threshold=LINEAR))
    if phi is Phi.RELU:
        return x.relu_()
    if phi is Phi.SQUARE:
        return x.square_()
    if phi is Phi.SIGMOID:
        return x.copy_(x.to(dtype).sigmoid_())
    return x


def slope(phi: Phi, x: Tensor, dtype: torch.dtype) -> Tensor:
    """phi'(x), likewise."""
    if phi is Phi.SOFTPLUS:
        return x.copy_(x.to(dtype).sigmoid_())
    if phi is Phi.RELU:
        return x.gt_(0.0)
    if phi is Phi.SQUARE:
        return x.mul_(2.0)
    if phi is Phi.SIGMOID:
        near = x.to(dtype)
        # 1 - sigmoid(x) would cancel.
        return x.copy_(near.sigmoid() * near.neg_().sigmoid_())
    return x.fill_(1.0)
