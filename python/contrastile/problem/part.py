"""Some rows and columns of the pairs, as a problem of their own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """Rows and columns, each counted from its first, on a device."""

    rows: slice
    cols: slice
    device: torch.device

    def of_rows(self, vector: Tensor) -> Tensor:
        """Of one entry a row those that are there."""
        return vector[self.rows].to(self.device)

    def of_cols(self, vector: Tensor) -> Tensor:
        """Of one entry a column those that are there."""
        return vector[self.cols].to(self.device)

    def within(self, columns: Tensor) -> Tensor:
        """The column of each row; -1 where it is not there."""
        columns = self.of_rows(columns)
        there = (columns >= self.cols.start) & (columns < self.cols.stop)
        return torch.where(there, columns - self.cols.start, -1)
