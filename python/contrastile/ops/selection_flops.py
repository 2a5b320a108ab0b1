"""What torch's FlopCounterMode counts of selections and late interaction: the matrix products.

Gradients of what was picked are sums over listed pairs, as those of gather_dot: no matrix product.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..problem.spec import Sizes, parse
from .shapes import GIVEN


def flops_of_select(tensors: list[Tensor], spec: str, *_: Any, **__: Any) -> int:
    """Of all dot products."""
    sizes = Sizes.of(parse(spec), tensors)
    return 2 * int(sizes.n) * int(sizes.m) * int(sizes.d)


def flops_of_max_sim(
    spec: str, query: Tensor, counts: Tensor | None, key: Tensor, *_: Any, **__: Any
) -> int:
    """Of the dot products of all tokens."""
    return 2 * int(query.numel()) * int(key.shape[0])


def flops_of_max_sim_gradients(
    spec: str, query: Tensor, counts: Tensor | None, key: Tensor, *rest: Any, **_: Any
) -> int:
    """Of these again, and of the products that the gradients are where no compiled code adds them
    up pair by pair, as it does on a CPU.
    """
    wanted = "" if query.device.type == "cpu" else rest[-1]
    return flops_of_max_sim(spec, query, counts, key) * (1 + wanted[:2].count(GIVEN))
