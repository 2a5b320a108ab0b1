"""Gradients of the embeddings, the scale and the biases from the weights G, strip by strip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import Block
from .positives import add_gradients, safe_upstream
from .products import add_product
from .run import Kernel, Run

# Up to this size dK^T = Q^T G is the faster product on a CPU, dK = G^T Q beyond it.
NARROW = 128


@dataclass(frozen=True)
class Needs:
    """Which gradients somebody asked for."""

    query: bool
    key: bool
    scale: bool
    row_bias: bool
    col_bias: bool

    @property
    def any(self) -> bool:
        """Whether anything is asked for at all."""
        return self.query or self.key or self.scale or self.row_bias or self.col_bias


class Gradients:
    """Accumulators of one backward pass: of the embeddings in the compute dtype, else fp64.

    ``query`` and ``key`` hold ``s sum_j G_ij k_j`` and ``sum_i s_i G_ij q_i``; a scale per row is
    applied to the former at the end, and one that only the device knows to both. The scale takes
    the row sums of ``G_ij <q_i, k_j>`` from the pass that makes G: 3 to 7 times more accurate in
    fp32 than ``<query, q>``, which inherits the roundings of a matrix product, and with
    G in half precision those of G (bf16: up to twice the error of the plain formula).
    """

    def __init__(self, run: Run, needs: Needs, overwrite: bool = False) -> None:
        """``overwrite``: a single block is going to be added, once, so nothing need be zeroed."""
        problem, scale = run.problem, run.scores.scale
        self.row_scale = run.scores.row_scale
        self.device_scale = scale if isinstance(scale, Tensor) and not scale.dim() else None
        self.run = run
        self.query_unit = self._query_unit()
        # What the queries are multiplied by on their way to the keys' gradients.
        self.key_scale = self.row_scale
        if self.row_scale is not None and self.query_unit is not None:
            self.key_scale = self.row_scale / self.query_unit
        self.kept = 0 if overwrite else 1
        self._new = torch.empty if overwrite else torch.zeros
        self.factor = 1.0 if isinstance(scale, Tensor) else scale
        self.query = self._matrix(problem.n) if needs.query else None
        if problem.triangle:
            self.key = self.query
        else:
            self.key = self._columns() if needs.key else None
        self.row_products = self._vector(problem.n) if needs.scale else None
        self.row_bias = self._vector(problem.n) if needs.row_bias else None
        self.col_bias = self._vector(problem.m) if needs.col_bias else None

    def _matrix(self, count: int) -> Tensor:
        problem = self.run.problem
        return self._new((count, problem.d), dtype=problem.dtype, device=problem.device)

    def _columns(self) -> Tensor:
        """The keys' gradients; transposed in memory where that is the faster product."""
        problem = self.run.problem
        if problem.d > NARROW or problem.device.type != "cpu":
            return self._matrix(problem.m)
        return self._new((problem.d, problem.m), dtype=problem.dtype, device=problem.device).t()

    def _vector(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.float64, device=self.run.problem.device)

    def _query_unit(self) -> Tensor | None:
        """A power of two: divided by it, a scale per row leaves half precision queries in range."""
        if self.row_scale is None or self.run.operand_dtype.itemsize > 2:
            return None
        largest = self.row_scale.abs().max()
        usable = torch.isfinite(largest) & (largest > 0)
        return torch.exp2(torch.ceil(torch.log2(torch.where(usable, largest, 1.0))))

    def scaled_query(self, rows: slice) -> Tensor:
        """The query block with its per-row scale, if it has one, less ``query_unit``."""
        block = self.run.query.rows(rows)
        if self.key_scale is None:
            return block
        scale = self.key_scale[rows, None].to(self.run.problem.dtype)
        return torch.mul(block, scale, out=torch.empty_like(block))

    def add_strip(self, kernel: Kernel, strip: list[Block]) -> None:
        """A strip's weights and both products of each of its blocks."""
        query = self.scaled_query(strip[0].rows)
        for block in strip:
            weights = kernel.weights(block, self.row_products)
            self.add_block(block, weights, query)

    def add_block(self, block: Block, weights: Tensor, query: Tensor) -> None:
        """Both products of one block: dQ += G K and dK += G^T Q."""
        if self.query is not None:
            keys = self.run.key.rows(block.cols)
            add_product(self.query[block.rows], weights, keys, self.kept, self.factor)
        if self.key is not None and (block.mirrored or not self.run.problem.triangle):
            add_product(self.key[block.cols], weights.t(), query, self.kept, self.factor)
        if self.row_bias is not None:
            self.row_bias[block.rows] += weights.sum(1, dtype=torch.float64)
        if self.col_bias is not None:
            self.col_bias[block.cols] += weights.sum(0, dtype=torch.float64)

    def add_positives(self, upstream: Tensor) -> None:
        """The indexed pairs, whose weight is their upstream gradient, if they are not in G."""
        columns = self.run.problem.positives
        assert columns is not None
        weight = safe_upstream(upstream, columns)
        if self.row_products is not None:
            assert self.run.positive_dots is not None
            self.row_products += weight.double() * self.run.positive_dots
        if self.row_bias is not None:
            self.row_bias += weight
        if self.col_bias is not None:
            self.col_bias.index_add_(0, columns.clamp(min=0), weight.double())
        weight = weight * self.factor
        key_weight = weight if self.key_scale is None else weight * self.key_scale.to(weight.dtype)
        add_gradients(
            self.run.query, self.run.key, None, columns, weight, self.query, self.key, key_weight
        )

    def multiply(self, factor: float) -> None:
        """Multiply everything gathered so far."""
        for part in (self.query, self.key, self.row_products, self.row_bias, self.col_bias):
            if part is not None:
                part.mul_(factor)

    def finish(self) -> None:
        """What is left to do once all blocks are in, but for :meth:`rounded`."""
        unit = self.run.unit
        if unit is not None:
            for part in (self.row_bias, self.col_bias):
                if part is not None:
                    part.div_(unit)
        if self.row_scale is not None and self.query is not None:
            self.query.mul_(self.row_scale[:, None].to(self.query.dtype))
        if self.key is not None:
            if self.query_unit is not None:
                self.key.mul_(self.query_unit)
            self.key = self.key.contiguous()

    def rounded(self, gradient: Tensor | None, like: Tensor) -> Tensor | None:
        """An embedding's gradient without the weights' unit, with a scale that only the device
        knows, in the embedding's dtype: one pass for all three.
        """
        unit, scale, dtype = self.run.unit, self.device_scale, like.dtype
        if gradient is None:
            return None
        if unit is None and scale is None:
            return gradient.to(dtype)
        factor = 1.0 if scale is None else scale
        factor = factor if unit is None else factor / unit
        out = gradient if dtype == gradient.dtype else torch.empty_like(gradient, dtype=dtype)
        return torch.mul(gradient, factor, out=out)

    @property
    def scale(self) -> Tensor | None:
        """The gradient of the scale: one number, or one a row."""
        if self.row_products is None or self.row_scale is not None:
            return self.row_products
        return self.row_products.sum()
