"""Blocks of an embedding in the dtype that is computed in."""

from __future__ import annotations

import torch
from torch import Tensor

from .spans import rows_of


class Operand:
    """Row blocks of an embedding; half precision is widened, the rows asked for or all at once.

    torch.mm on half precision rounds its products to that precision, too coarse for scores. The
    blocks of a strip share their rows, so queries are widened a strip at a time; but each strip
    meets all columns again, so keys are widened at once: anew for each strip, bf16 took 1.05 to 1.2
    times as long as fp32 (N = 8192).
    """

    def __init__(self, tensor: Tensor, dtype: torch.dtype, at_once: bool = False) -> None:
        self.tensor = tensor
        self.dtype = dtype
        self.at_once = at_once
        self._span = slice(0, 0)
        # Nothing to widen: all rows are there.
        self._same = tensor.dtype == dtype
        self._block: Tensor | None = tensor if self._same else None

    def whole(self) -> Tensor:
        """All rows in the compute dtype."""
        return self.rows(slice(0, len(self.tensor)))

    def rows(self, span: slice) -> Tensor:
        """Rows ``span`` in the compute dtype; valid until the next call."""
        if self._same:
            return rows_of(self.tensor, span)
        if self._block is not None and len(self._block) == len(self.tensor):
            whole = span.stop - span.start == len(self.tensor)
            return self._block if whole else self._block[span]
        if self.at_once:
            self._block = self.tensor.to(self.dtype)
            return self._block[span]
        if self._block is None or span != self._span:
            self._block = self.tensor[span].to(self.dtype)
            self._span = span
        return self._block
