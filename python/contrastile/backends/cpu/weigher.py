"""The backward half of the compiled pass."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ...engine.job import Job
from ...engine.plan import Block
from ...engine.spans import WHOLE
from ...engine.state import State, Upstream
from .compiled import Scratch, address, addresses, call, ends, lowered, place


class NativeWeigher:
    """Weights G by the compiled pass, in place of a block's dot products unless those are kept."""

    unit: Tensor | None = None

    def __init__(
        self,
        job: Job,
        module: ModuleType,
        state: State,
        upstream: Upstream,
        products: bool,
        rows: slice = WHOLE,
    ) -> None:
        self.job = job
        # Held here, as the pass knows the addresses of their tensors only.
        self._state, self._upstream = state, upstream
        self._weights = lowered(module, job).weights(
            *call(job),
            addresses(state.row_bits),
            addresses(upstream.rows),
            addresses(state.col_bits),
            addresses(upstream.cols),
            address(state.shifts),
            *ends(rows, job.sizes.n),
            torch.get_num_threads(),
        )
        self._scratch = Scratch(job)
        self._products: Tensor | None = None
        if products:
            self._products = torch.empty(job.sizes.n, dtype=torch.float64, device=job.sizes.device)
            self._weights.sum_products(self._products.data_ptr())
        if upstream.positive is not None:
            found = job.positives, upstream.positive, state.positive
            self._weights.put_positives(*addresses(found))
        if upstream.row_line is not None or upstream.col_line is not None:
            self._weights.add_lines(address(upstream.row_line), address(upstream.col_line))

    def weights(self, block: Block) -> Tensor:
        """G of the block."""
        job = self.job
        out = self._scratch.room(block)
        dots = job.kept_dots(block)
        if dots is None:
            dots = job.dot_products(block, out)
        self._weights.weigh(
            dots.data_ptr(), dots.stride(0), out.data_ptr(), out.stride(0), *place(block)
        )
        return out

    def products(self) -> Tensor | None:
        """Row sums of G_ij <q_i, k_j>."""
        return self._products
