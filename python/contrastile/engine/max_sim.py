"""Late interaction: queries and documents of several vectors each, and the softmax over documents.

S[i, j] = scale_i sum_a max_b <q_ia, k_jb>. Neither the dot products, nor which of them are largest,
nor S are stored: strips of queries are reduced one after the other, and in the backward pass once
more, by the same walk over the same blocks, so that the same dot products win.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import native
from ..problem.spec import Sizes, Spec
from .first_order import BackwardOnly, first_order
from .job import Backend
from .picked import Picked
from .products import add_product
from .selections import selection_job
from .spans import spans

# Of the workspace a third each is for a block of dot products, for what is known of a strip, and
# for a block of weights.
PARTS = 3


class Interaction(NamedTuple):
    """Queries among documents.

    Attributes:
        spec: dot products of tokens, lowered; all are kept.
        query: [N, A, D]; tokens that do not count are zero.
        counts: [N, A], which do count; None: all.
        key: [T, D], the tokens of all documents, one after the other.
        starts: [M + 1], where each document's begin.
        scale: [N] or 0-d, fp64.
        first: the document of the first query; the next one has the next.
    """

    spec: Spec
    query: Tensor
    counts: Tensor | None
    key: Tensor
    starts: Tensor
    scale: Tensor
    first: int

    def walk(self, backend: Backend) -> Iterator[Strip]:
        """The queries, as many at a time as the workspace has room for."""
        n, tokens, size = self.query.shape
        spec = self.spec._replace(workspace=max(self.spec.workspace // PARTS, 1))
        sizes = Sizes.of(spec, [self.query.flatten(0, 1), self.key])
        dtype = backend.operand_dtype(spec, sizes)
        key = self.key.to(dtype).contiguous()
        # A token's maximum and its place, and of S what it is made of and makes.
        documents = max(self.starts.shape[0] - 1, 1)
        each = documents * (tokens * (2 * sizes.dtype.itemsize + 16) + 48)
        height = max(spec.workspace // each, 1)
        for rows in spans(0, n, height):
            query = self.query[rows].to(dtype).reshape(-1, size).contiguous()
            tensors = [query, key]
            own = sizes._replace(n=query.shape[0])
            selector = backend.selector(selection_job(backend, spec, own, tensors))
            yield Strip(self, rows, query, key, selector.group_max(self.starts))


class Strip(NamedTuple):
    """Some queries, of whose tokens the best in each document are known."""

    of: Interaction
    rows: slice
    query: Tensor
    key: Tensor
    best: Picked

    @property
    def shape(self) -> tuple[int, int, int]:
        """Queries, tokens of each, documents."""
        height = self.rows.stop - self.rows.start
        return height, self.of.query.shape[1], self.of.starts.shape[0] - 1

    @property
    def nothing(self) -> Tensor:
        """The documents without a token."""
        return self.of.starts.diff() == 0

    def sums(self) -> Tensor:
        """sum_a max_b <q_ia, k_jb>, fp64; 0 where the document has no token."""
        best = self.best.values.view(self.shape)
        if self.of.counts is not None:
            best = best.masked_fill(~self.of.counts[self.rows, :, None], 0.0)
        return best.sum(1, dtype=torch.float64).masked_fill_(self.nothing, 0.0)

    def scores(self, sums: Tensor) -> Tensor:
        """S; documents without a token are left out."""
        return (sums * self.scale).masked_fill_(self.nothing, -torch.inf)

    @property
    def scale(self) -> Tensor:
        """A column that multiplies the strip."""
        scale = self.of.scale
        return scale[self.rows, None] if scale.dim() else scale

    def own(self) -> Tensor:
        """The document of each query, as a column."""
        start, stop = self.of.first + self.rows.start, self.of.first + self.rows.stop
        return torch.arange(start, stop, device=self.key.device)[:, None]


class Outcome(NamedTuple):
    """Of each query: the log-sum-exp of its scores, the score of its own document, 0 if that has no
    token, and how many documents score above it.
    """

    lse: Tensor
    positive: Tensor
    rank: Tensor


def forward(backend: Backend, of: Interaction) -> Outcome:
    """In fp64."""
    n, device = of.query.shape[0], of.query.device
    lse = torch.empty(n, dtype=torch.float64, device=device)
    positive = torch.empty_like(lse)
    rank = torch.empty(n, dtype=torch.int64, device=device)
    for strip in of.walk(backend):
        scores = strip.scores(strip.sums())
        found = scores.gather(1, strip.own())
        lse[strip.rows] = scores.logsumexp(1)
        positive[strip.rows] = found[:, 0].masked_fill(found[:, 0] == -torch.inf, 0.0)
        rank[strip.rows] = (scores > found).sum(1)
    return Outcome(lse, positive, rank)


def backward(
    backend: Backend,
    of: Interaction,
    lse: Tensor,
    grad_lse: Tensor,
    grad_positive: Tensor,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients that are wanted of query, key and scale."""
    dtype = Sizes.of(of.spec, [of.query.flatten(0, 1), of.key]).dtype

    def zeros(like: Tensor, own: bool) -> Tensor | None:
        return torch.zeros(like.shape, dtype=dtype, device=like.device) if own else None

    dquery, dkey = zeros(of.query, wanted[0]), zeros(of.key, wanted[1])
    dscale = torch.zeros_like(of.scale) if wanted[2] else None
    unit = _unit(of.scale, grad_lse, grad_positive)
    for strip in of.walk(backend):
        sums, rows = strip.sums(), strip.rows
        weights = (strip.scores(sums) - lse[rows, None]).exp_().mul_(grad_lse[rows, None])
        weights.scatter_add_(1, strip.own(), grad_positive[rows, None])
        weights.masked_fill_(strip.nothing, 0.0)
        if dscale is not None:
            products = (weights * sums).sum(1)
            if dscale.dim():
                dscale[rows] = products
            else:
                dscale += products.sum()
        if dquery is not None or dkey is not None:
            _spread(strip, weights.mul_(strip.scale / unit), dquery, dkey)
    for grad in (dquery, dkey):
        if grad is not None:
            grad.mul_(unit)
    return dquery, dkey, dscale


def _unit(scale: Tensor, grad_lse: Tensor, grad_positive: Tensor) -> Tensor:
    """A power of two that no weight exceeds by much: half precision has room for them over it."""
    if not grad_lse.numel():
        return torch.ones((), dtype=torch.float64, device=scale.device)
    largest = (scale.abs() * (grad_lse.abs() + grad_positive.abs())).max()
    return largest.log2().ceil().clamp(min=-900.0, max=900.0).exp2()


def _spread(strip: Strip, weights: Tensor, dquery: Tensor | None, dkey: Tensor | None) -> None:
    """dq_ia += sum_j G_ij k_b and dk_b += G_ij q_ia, of the b that is best of ia in j."""
    height, tokens, documents = strip.shape
    wide = weights[:, None, :].expand(strip.shape).to(strip.best.values.dtype)
    if strip.of.counts is not None:
        wide = wide * strip.of.counts[strip.rows, :, None]
    wide = wide.reshape(height * tokens, documents).contiguous()
    own = None if dquery is None else dquery[strip.rows].flatten(0, 1)
    module = native.load_for(wide)
    # Half precision is here on a GPU, and in Triton's interpreter.
    if module is None or strip.query.dtype != wide.dtype:
        _multiply(strip, wide, own, dkey)
        return
    operands = strip.query, strip.key, wide, strip.best.columns
    sizes = *wide.shape, strip.key.shape[1]
    module.spread(native.is_double(wide), *operands, *sizes, own, dkey, torch.get_num_threads())


def _multiply(strip: Strip, weights: Tensor, dquery: Tensor | None, dkey: Tensor | None) -> None:
    """By products of matrices that are 0 but for what was best: what a GPU is fast at."""
    columns = strip.best.columns
    each = PARTS * max(len(strip.query), 1) * strip.query.itemsize
    width = max(strip.of.spec.workspace // each, 1)
    for cols in spans(0, len(strip.key), width):
        dense = strip.query.new_zeros((len(strip.query), cols.stop - cols.start))
        there = (columns >= cols.start) & (columns < cols.stop)
        places = torch.where(there, columns - cols.start, 0)
        dense.scatter_add_(1, places, torch.where(there, weights, 0.0).to(dense.dtype))
        if dquery is not None:
            add_product(dquery, dense, strip.key[cols], 1.0, 1.0)
        if dkey is not None:
            add_product(dkey[cols], dense.t(), strip.query, 1.0, 1.0)


class MaxSim(BackwardOnly):
    """``apply(backend, interaction, query, key, scale)``: an :class:`Outcome`."""

    @staticmethod
    def forward(
        ctx: Any, backend: Backend, of: Interaction, query: Tensor, key: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.caller, ctx.backend = of.spec.caller, backend
        outcome = forward(backend, of)
        ctx.plain = of.spec, of.first
        ctx.save_for_backward(query, of.counts, key, of.starts, scale, outcome.lse)
        ctx.mark_non_differentiable(outcome.rank)
        return outcome

    @staticmethod
    @first_order
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        query, counts, key, starts, scale, lse = ctx.saved_tensors
        spec, first = ctx.plain
        of = Interaction(spec, query, counts, key, starts, scale, first)
        of_lse, of_positive = (
            torch.zeros_like(lse) if grad is None else grad for grad in upstream[:2]
        )
        found = backward(ctx.backend, of, lse, of_lse, of_positive, ctx.needs_input_grad[2:])
        return None, None, *in_dtypes(found, (query, key, scale))


def in_dtypes(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Each gradient in the dtype of its tensor."""
    return tuple(
        None if grad is None else grad.to(own.dtype) for grad, own in zip(grads, like, strict=True)
    )
