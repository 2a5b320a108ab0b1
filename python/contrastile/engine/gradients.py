"""Gradients of the embeddings, the scale and the biases from the weights G, strip by strip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..problem.spec import NONE, QUERY, Sizes, Spec
from .job import Job, Weigher
from .plan import Block, Strip
from .positives import add_gradients, safe_upstream
from .products import add_product, add_sums
from .spans import rows_of

# Up to this embedding size dK^T = Q^T G is the faster product on a CPU, dK = G^T Q beyond it; with
# few keys the transposition costs more than it brings.
NARROW = 128
FEW = 512


class Needs(NamedTuple):
    """Which gradients somebody asked for."""

    query: bool
    key: bool
    scale: bool
    row_bias: bool
    col_bias: bool

    @property
    def any(self) -> bool:
        """Whether anything is asked for at all."""
        return True in self


class Values(NamedTuple):
    """Gradients as they leave, in the dtypes and shapes of what they are of."""

    query: Tensor | None
    key: Tensor | None
    scale: Tensor | None
    row_bias: Tensor | None
    col_bias: Tensor | None


class Ready(NamedTuple):
    """Gradients for a gradient of the loss of 1, until the true one is known.

    Embeddings' gradients are in the compute dtype, so that a gradient scaler for half precision
    works as ever; ``factor`` is what they are still to be multiplied by. The others are fp64.
    """

    query: Tensor | None
    key: Tensor | None
    scale: Tensor | None
    row_bias: Tensor | None
    col_bias: Tensor | None
    factor: Tensor | None

    def times(
        self, upstream: Tensor | None, spec: Spec, sizes: Sizes, tensors: Sequence[Tensor]
    ) -> Values:
        """The gradients for a gradient of the loss."""
        assert upstream is not None
        factor = upstream.to(sizes.dtype)
        whole = factor if self.factor is None else factor * self.factor
        query = _product(self.query, whole, tensors[QUERY])
        key = None if spec.key == NONE else _product(self.key, whole, tensors[spec.key])
        scale, row_bias, col_bias = (
            None if own is None else own * factor
            for own in (self.scale, self.row_bias, self.col_bias)
        )
        return Values(query, key, *_shaped(spec, tensors, scale, row_bias, col_bias))


class Gradients:
    """Accumulators of one pass: of the embeddings in the compute dtype, else fp64.

    ``query`` and ``key`` hold ``s sum_j G_ij k_j`` and ``sum_i s_i G_ij q_i``. A scale that
    the host knows is a factor of the products as they are made; one of each row multiplies the
    finished rows of ``query``, and one that only the device knows multiplies both at the end. The
    scale takes the row sums of ``G_ij <q_i, k_j>`` from the pass that makes G: 3 to 7 times more
    accurate in fp32 than ``<query, q>``, which inherits the roundings of a matrix product, and with
    G in half precision those of G (bf16: up to twice the error of the plain formula).
    """

    def __init__(
        self, job: Job, needs: Needs, overwrite: bool = False, unit: Tensor | None = None
    ) -> None:
        """``overwrite``: a single block is going to be added, once, so nothing need be zeroed.
        ``unit``: the power of two that weights come multiplied by.
        """
        self._job, self._needs, self._unit = job, needs, unit
        scale = job.scores.scale
        self._row_scale = job.scores.row_scale
        self._device_scale = scale if isinstance(scale, Tensor) and not scale.dim() else None
        self._query_unit = self._unit_of_queries()
        # What the queries are multiplied by on their way to the keys' gradients.
        self._key_scale = self._row_scale
        if self._row_scale is not None and self._query_unit is not None:
            self._key_scale = self._row_scale / self._query_unit
        self._beta = 0 if overwrite else 1
        self._new = torch.empty if overwrite else torch.zeros
        self._alpha = 1.0 if isinstance(scale, Tensor) else scale
        sizes, spec = job.sizes, job.spec
        self_mode = spec.key == NONE
        self.query = self._matrix(sizes.n) if needs.query else None
        if spec.triangle:
            self.key = self.query
        else:
            wanted = needs.query if self_mode else needs.key
            self.key = self._columns() if wanted else None
        # The weigher's row sums of G_ij <q_i, k_j>; without a weigher those of the positives alone.
        self.products: Tensor | None = None
        self.row_bias = self._vector(sizes.n) if needs.row_bias else None
        self.col_bias = self._vector(sizes.m) if needs.col_bias else None

    def add_strip(self, weigher: Weigher, strip: Strip) -> None:
        """A strip's weights and both products of each of its blocks."""
        query = self._scaled_query(strip[0].rows)
        for block in strip:
            self._add_block(block, weigher.weights(block), query)

    def add_positives(self, upstream: Tensor, dots: Tensor | None) -> None:
        """The indexed pairs, whose weight is their upstream gradient, if they are not in G."""
        job = self._job
        columns = job.positives
        assert columns is not None and dots is not None
        weight = safe_upstream(upstream, columns)
        if self._needs.scale:
            self.products = weight.double() * dots
        if self.row_bias is not None:
            self.row_bias += weight
        if self.col_bias is not None and len(self.col_bias):
            self.col_bias.index_add_(0, columns.clamp(min=0), weight.double())
        weight = weight * self._alpha
        scaled = weight if self._key_scale is None else weight * self._key_scale.to(weight.dtype)
        add_gradients(job.query, job.key, None, columns, weight, self.query, self.key, scaled)

    def finish(self, products: Tensor | None) -> None:
        """What is left to do once all blocks are in; ``products`` are the weigher's."""
        if products is not None:
            self.products = products
        elif self.products is None and self._needs.scale:
            self.products = self._vector(self._job.sizes.n)
        if self._unit is not None:
            for part in (self.row_bias, self.col_bias):
                if part is not None:
                    part.div_(self._unit)
        if self._row_scale is not None and self.query is not None:
            self.query.mul_(self._row_scale[:, None].to(self.query.dtype))
        if self.key is not None:
            if self._query_unit is not None:
                self.key.mul_(self._query_unit)
            if not self.key.is_contiguous():
                self.key = self.key.contiguous()
        if self._job.spec.key == NONE and self.key is not None and self.key is not self.query:
            # Without a key the query stands on both sides, and so does its gradient.
            assert self.query is not None
            self.query = self.query.add_(self.key)

    def values(self, tensors: Sequence[Tensor]) -> Values:
        """The gradients as they leave."""
        spec, factor = self._job.spec, self._factor
        query = _product(self.query, factor, tensors[QUERY], reuse=True)
        key = None
        if spec.key != NONE:
            key = _product(self.key, factor, tensors[spec.key], reuse=True)
        rest = _shaped(spec, tensors, self._scale_gradient(), self.row_bias, self.col_bias)
        return Values(query, key, *rest)

    def ready(self) -> Ready:
        """The gradients, to be multiplied by that of the loss."""
        key = None if self._job.spec.key == NONE else self.key
        factor, scale = self._factor, self._scale_gradient()
        return Ready(self.query, key, scale, self.row_bias, self.col_bias, factor)

    @property
    def _factor(self) -> Tensor | None:
        """What the embeddings' gradients are still to be multiplied by."""
        if self._unit is None:
            return self._device_scale
        return (1.0 if self._device_scale is None else self._device_scale) / self._unit

    def _scale_gradient(self) -> Tensor | None:
        """Of the scale: one number, or one a row."""
        if self.products is None or self._row_scale is not None or not self.products.dim():
            return self.products
        return self.products.sum()

    def _add_block(self, block: Block, weights: Tensor, query: Tensor) -> None:
        """Both products of one block: dQ += G K and dK += G^T Q."""
        if self.query is not None:
            keys = self._job.key.rows(block.cols)
            own = rows_of(self.query, block.rows)
            add_product(own, weights, keys, self._beta, self._alpha)
        if self.key is not None and (block.mirrored or not self._job.spec.triangle):
            own = rows_of(self.key, block.cols)
            add_product(own, weights.t(), query, self._beta, self._alpha)
        if self.row_bias is not None or self.col_bias is not None:
            of_rows = None if self.row_bias is None else rows_of(self.row_bias, block.rows)
            of_cols = None if self.col_bias is None else rows_of(self.col_bias, block.cols)
            add_sums(weights, of_rows, of_cols)

    def _matrix(self, count: int) -> Tensor:
        sizes = self._job.sizes
        return self._new((count, sizes.d), dtype=sizes.dtype, device=sizes.device)

    def _columns(self) -> Tensor:
        """The keys' gradients; transposed in memory where that is the faster product."""
        sizes = self._job.sizes
        if sizes.d > NARROW or sizes.m < FEW or sizes.device.type != "cpu":
            return self._matrix(sizes.m)
        return self._new((sizes.d, sizes.m), dtype=sizes.dtype, device=sizes.device).t()

    def _vector(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.float64, device=self._job.sizes.device)

    def _unit_of_queries(self) -> Tensor | None:
        """The power of two above the largest scale of a row; None where none is needed.

        Queries in half precision are multiplied by their rows' scales before they meet G. Divided
        by this number first, the scales are at most 1 and no query overflows; the keys' gradients
        are multiplied by it at the end.
        """
        if self._row_scale is None or self._job.operand_dtype.itemsize > 2:
            return None
        largest = self._row_scale.abs().max()
        usable = torch.isfinite(largest) & (largest > 0)
        return torch.exp2(torch.ceil(torch.log2(torch.where(usable, largest, 1.0))))

    def _scaled_query(self, rows: slice) -> Tensor:
        """The query block times its rows' scales over ``_query_unit``, if it has such scales."""
        block = self._job.query.rows(rows)
        if self._key_scale is None:
            return block
        scale = self._key_scale[rows, None].to(self._job.sizes.dtype)
        return torch.mul(block, scale, out=torch.empty_like(block))


def _product(
    gradient: Tensor | None, factor: Tensor | None, like: Tensor, reuse: bool = False
) -> Tensor | None:
    """An embedding's gradient times a factor, in the embedding's dtype: one pass for both.

    ``reuse``: its memory may be written to.
    """
    if gradient is None:
        return None
    if factor is None:
        return gradient if gradient.dtype == like.dtype else gradient.to(like.dtype)
    same = reuse and gradient.dtype == like.dtype
    out = gradient if same else torch.empty_like(gradient, dtype=like.dtype)
    return torch.mul(gradient, factor, out=out)


def _shaped(
    spec: Spec,
    tensors: Sequence[Tensor],
    scale: Tensor | None,
    row_bias: Tensor | None,
    col_bias: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Scale and biases' gradients as what they are of."""
    own = None
    if scale is not None and spec.scale_slot != NONE:
        like = tensors[spec.scale_slot]
        own = scale.to(like.dtype)
        if own.shape != like.shape:
            own = own.view(like.shape)
    if row_bias is not None:
        row_bias = row_bias.to(tensors[spec.row_bias].dtype)
    if col_bias is not None:
        col_bias = col_bias.to(tensors[spec.col_bias].dtype)
    return own, row_bias, col_bias
