"""Blocks of an embedding in the dtype that is computed in."""

from __future__ import annotations

import torch
from torch import Tensor


class Operand:
    """Row blocks of an embedding; half-precision blocks are widened on the way, never all at once.

    torch.mm on half precision rounds its products to that precision, which the scores may not
    suffer. Widening a block costs O(rows x D) against O(rows x columns x D) of the product.
    """

    def __init__(self, tensor: Tensor, dtype: torch.dtype) -> None:
        self.tensor = tensor
        self.dtype = dtype
        self._span: slice | None = None
        self._block = tensor
        self._scratch: Tensor | None = None

    def rows(self, span: slice) -> Tensor:
        """Rows ``span`` in the compute dtype; valid until the next call."""
        if self.tensor.dtype == self.dtype:
            whole = span.stop - span.start == len(self.tensor)
            return self.tensor if whole else self.tensor[span]
        if span != self._span:
            count = span.stop - span.start
            if self._scratch is None or len(self._scratch) < count:
                self._scratch = self.tensor.new_empty(
                    (count, self.tensor.shape[1]), dtype=self.dtype
                )
            self._block = self._scratch[:count]
            self._block.copy_(self.tensor[span])
            self._span = span
        return self._block
