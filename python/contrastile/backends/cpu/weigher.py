"""The backward half of the compiled pass."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ...engine.job import Job
from ...engine.plan import Block
from ...engine.spans import WHOLE
from ...engine.state import State, Upstream
from .compiled import Scratch, ends, lowered, place


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
        sizes = job.sizes
        self._weights = lowered(module, job.spec, sizes).weights(
            job.tensors,
            job.arguments,
            sizes.n,
            sizes.m,
            state.row_bits,
            upstream.rows,
            state.col_bits,
            upstream.cols,
            state.shifts,
            *ends(rows, sizes.n),
            torch.get_num_threads(),
            job.planes,
        )
        self._scratch = Scratch(job)
        self._products: Tensor | None = None
        if products:
            self._products = torch.empty(sizes.n, dtype=torch.float64, device=sizes.device)
            self._weights.sum_products(self._products)
        if upstream.positive is not None:
            self._weights.put_positives(job.positives, upstream.positive, state.positive)
        if upstream.row_line is not None or upstream.col_line is not None:
            self._weights.add_lines(upstream.row_line, upstream.col_line)

    def weights(self, block: Block) -> Tensor:
        """G of the block."""
        job = self.job
        out = self._scratch.room(block)
        dots = job.kept_dots(block)
        if dots is None:
            dots = job.dot_products(block, out)
        self._weights.weigh(dots, dots.stride(0), out, out.stride(0), *place(block))
        return out

    def products(self) -> Tensor | None:
        """Row sums of G_ij <q_i, k_j>."""
        return self._products
