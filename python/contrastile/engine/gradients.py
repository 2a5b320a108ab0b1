"""Gradients of the embeddings, the scale and the biases from the weights G, strip by strip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import Block
from .positives import add_gradients, safe_upstream
from .row_steps import row_products
from .run import Kernel, Run


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
    """Accumulators of one backward pass, in the compute dtype.

    ``query`` and ``key`` hold ``sum_j G_ij k_j`` and ``sum_i s_i G_ij q_i``; the scalar scale is
    applied once at the end, so that the scale's own gradient, ``<query, q>``, needs no pass.
    """

    def __init__(self, run: Run, needs: Needs) -> None:
        problem, scale = run.problem, run.scores.scale
        self.run = run
        self.needs = needs
        self.row_scale = scale if isinstance(scale, Tensor) else None
        through_key = needs.key and not needs.query and self.row_scale is None
        self.scale_from_key = needs.scale and through_key and not problem.triangle
        want_query = needs.query or (needs.scale and not self.scale_from_key)
        self.query = self._zeros(problem.n) if want_query else None
        if problem.triangle:
            self.key = self.query
        else:
            self.key = self._zeros(problem.m) if needs.key else None
        self.row_bias = self._vector(problem.n) if needs.row_bias else None
        self.col_bias = self._vector(problem.m) if needs.col_bias else None
        self.scale: Tensor | None = None

    def _zeros(self, count: int) -> Tensor:
        problem = self.run.problem
        return torch.zeros(count, problem.d, dtype=problem.dtype, device=problem.device)

    def _vector(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.float64, device=self.run.problem.device)

    def scaled_query(self, rows: slice) -> Tensor:
        """The query block with its per-row scale, if it has one."""
        block = self.run.query.rows(rows)
        if self.row_scale is None:
            return block
        return block * self.row_scale[rows, None].to(block.dtype)

    def add_strip(self, kernel: Kernel, strip: list[Block]) -> None:
        """A strip's weights and both products of each of its blocks."""
        query = self.scaled_query(strip[0].rows)
        for block in strip:
            self.add_block(block, kernel.weights(block), query)

    def add_block(self, block: Block, weights: Tensor, query: Tensor) -> None:
        """Both products of one block: dQ += G K and dK += G^T Q."""
        if self.query is not None:
            self.query[block.rows].addmm_(weights, self.run.key.rows(block.cols))
        if self.key is not None and (block.mirrored or not self.run.problem.triangle):
            self.key[block.cols].addmm_(weights.t(), query)
        if self.row_bias is not None:
            self.row_bias[block.rows] += weights.sum(1)
        if self.col_bias is not None:
            self.col_bias[block.cols] += weights.sum(0)

    def add_positives(self, upstream: Tensor) -> None:
        """The indexed pairs, whose weight is their upstream gradient: never in G."""
        columns = self.run.problem.positives
        assert columns is not None
        weight = safe_upstream(upstream, columns)
        key_weight = weight if self.row_scale is None else weight * self.row_scale.to(weight.dtype)
        add_gradients(
            self.run.query, self.run.key, None, columns, weight, self.query, self.key, key_weight
        )
        if self.row_bias is not None:
            self.row_bias += weight
        if self.col_bias is not None:
            self.col_bias.index_add_(0, columns.clamp(min=0), weight.double())

    def multiply(self, factor: float) -> None:
        """Multiply everything gathered so far."""
        for part in (self.query, self.key, self.row_bias, self.col_bias):
            if part is not None:
                part.mul_(factor)

    def finish(self) -> None:
        """The scale's gradient, then the scale on the embeddings' gradients."""
        scale = self.run.scores.scale
        if self.needs.scale:
            if self.scale_from_key:
                assert self.key is not None
                self.scale = row_products(self.key, self.run.key).sum()
            else:
                assert self.query is not None
                per_row = row_products(self.query, self.run.query)
                halves = 0.5 if self.run.problem.triangle else 1.0
                self.scale = per_row if self.row_scale is not None else per_row.sum() * halves
        if isinstance(scale, Tensor):
            if self.query is not None:
                self.query.mul_(scale[:, None].to(self.query.dtype))
            return
        if self.query is not None:
            self.query.mul_(scale)
        if self.key is not None and self.key is not self.query:
            self.key.mul_(scale)
