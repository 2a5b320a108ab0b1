"""Matrix products into an accumulator that may be wider than the factors."""

from __future__ import annotations

import torch
from torch import Tensor


def add_product(out: Tensor, a: Tensor, b: Tensor, keep: float, factor: float) -> None:
    """out = keep out + factor a b, accumulated in out's dtype."""
    if a.dtype == out.dtype:
        out.addmm_(a, b, beta=keep, alpha=factor)
    elif out.is_cuda:
        torch.addmm(out, a, b, out_dtype=out.dtype, beta=keep, alpha=factor, out=out)
    else:
        # torch.mm on the CPU rounds its products to the factors' dtype.
        out.addmm_(a.to(out.dtype), b.to(out.dtype), beta=keep, alpha=factor)
