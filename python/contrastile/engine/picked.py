"""What a backend picks of each row, and who picks it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..problem.spec import Sizes


class Picked(NamedTuple):
    """Of each row some columns, int64, and their dot products; -1 and -inf where there is none."""

    values: Tensor
    columns: Tensor

    @staticmethod
    def none(sizes: Sizes, count: int) -> Picked:
        """Nothing picked yet, ``count`` a row."""
        shape = sizes.n, count
        values = torch.full(shape, -torch.inf, dtype=sizes.dtype, device=sizes.device)
        return Picked(values, torch.full(shape, -1, dtype=torch.int64, device=sizes.device))


class Selector(Protocol):
    """Picks among the pairs that the job's only stat keeps, by their dot products.

    The larger comes first, and of equal ones that of the smaller column. NaN is larger than every
    number, so that it shows; -inf is never picked.
    """

    def top_k(self, k: int) -> Picked:
        """The first ``k`` columns of each row, in their order: [N, k]."""

    def group_max(self, starts: Tensor) -> Picked:
        """The first of the columns [starts[g], starts[g + 1]), of each row and group: [N, G]."""
