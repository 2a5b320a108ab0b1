"""One call of the engine: everything that both passes read, and nobody writes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..problem.spec import NONE, QUERY, Sizes, Spec
from .arguments import Affine, Argument, arguments_of
from .operands import Operand
from .picked import Selector
from .plan import Block, Keeping, Plan, Tile
from .products import make_symmetric
from .spans import WHOLE
from .state import Reduced, State, Upstream
from .sweep.block_math import BlockMath


class Numbers(NamedTuple):
    """What is formed of scale and biases once for both passes."""

    scores: Affine
    arguments: tuple[Argument, ...]

    @staticmethod
    def of(spec: Spec, sizes: Sizes, tensors: Sequence[Tensor], backend: Backend) -> Numbers:
        """As ``backend`` reads them."""
        scores = Affine.of(spec, tensors, backend.reads_scale)
        return Numbers(scores, arguments_of(spec, sizes, tensors, scores))


class Job(NamedTuple):
    """A lowered problem with its tensors, its plan of blocks, and memory for the kept ones.

    Attributes:
        given: ``kept`` holds the block's numbers before it is reduced: they are a plane of a sweep,
            no dot products of ``query`` and ``key``.
        bound: of their magnitude, where it is known.
        positive: the positives' numbers, if they are given and needed before the blocks.
        scratch: room for a block's weights that jobs of one sweep have in common.
        planes: what predicates read by number: each plane's numbers of the block at hand, laid out
            as ``kept`` is.
    """

    spec: Spec
    sizes: Sizes
    plan: Plan
    tensors: Sequence[Tensor]
    scores: Affine
    arguments: tuple[Argument, ...]
    query: Operand
    key: Operand
    kept: Tensor | None = None
    given: bool = False
    bound: float | None = None
    positive: Tensor | None = None
    scratch: Tensor | None = None
    planes: tuple[Tensor, ...] = ()

    def tensor(self, slot: int) -> Tensor | None:
        """The tensor in a slot; None in none."""
        return None if slot == NONE else self.tensors[slot]

    @property
    def positives(self) -> Tensor | None:
        """The column of each row, -1 for none."""
        return self.tensor(self.spec.positives)

    @property
    def operand_dtype(self) -> torch.dtype:
        """What embeddings and G are multiplied in."""
        return self.query.dtype

    def scores_of_none(self) -> Tensor:
        """Zeros, one a row: dot products of positives that are not there, or not yet."""
        return torch.zeros(self.sizes.n, dtype=self.sizes.dtype, device=self.sizes.device)

    def kept_dots(self, block: Block) -> Tensor | None:
        """The memory of a block's dot products, if they are kept."""
        if block.kept_at is None or self.kept is None:
            return None
        rows, cols = block.shape
        if self.plan.single:
            return self.kept.view(rows, cols)
        return self.kept[block.kept_at : block.kept_at + rows * cols].view(rows, cols)

    def planes_of(self, block: Block) -> tuple[Tensor, ...]:
        """Each plane's numbers of the block, which is the one at hand."""
        rows, cols = block.shape
        return tuple([plane[: rows * cols].view(rows, cols) for plane in self.planes])

    def reduced_dots(self, block: Block, room: Callable[[Block], Tensor]) -> Tensor:
        """<q_i, k_j> of a block that is reduced: given; or computed, and where none are kept in
        ``room``.
        """
        kept = self.kept_dots(block)
        if self.given:
            assert kept is not None, "a plane without its numbers"
            return kept
        return self.dot_products(block, room(block) if kept is None else kept)

    def dot_products(self, block: Block, out: Tensor) -> Tensor:
        """<q_i, k_j> of the block, accumulated and stored in the compute dtype."""
        torch.mm(self.query.rows(block.rows), self.key.rows(block.cols).t(), out=out)
        if self.spec.triangle and not block.mirrored:
            make_symmetric(out)
        return out


class Reducer(Protocol):
    """Sums of one forward pass, which are its own until they are settled."""

    def reduce(self, block: Block) -> None:
        """Add a block; leave its dot products where the plan keeps them."""

    def settle(self, rows: slice = WHOLE) -> Reduced:
        """The stats of all blocks; or of ``rows`` alone, whose blocks are all in.

        Then the vectors have their full length too, and the entries of other rows mean nothing.
        """


class Weigher(Protocol):
    """Weights G of one backward pass.

    ``unit`` is the power of two that G is multiplied by; None is one.
    """

    unit: Tensor | None

    def weights(self, block: Block) -> Tensor:
        """``unit`` times G = dL/dS of the block, in the operands' dtype; valid until the next.

        With the upstream gradient of the positives at their places.
        """

    def products(self) -> Tensor | None:
        """Row sums of G_ij <q_i, k_j> over the blocks so far, fp64 [N], if they were asked for.

        Of the diagonal of a triangle, where each pair stands twice, half; positives count once.
        """


class ReducingWeigher(Weigher, Protocol):
    """Weights that are known beforehand, of sums: each block is added as it is weighed."""

    def settle(self) -> Reduced:
        """The stats of all blocks."""


class BlockLoss(Protocol):
    """A loss of rows whose scores are a single block: each pass in one call.

    A small problem costs what the host does: at N = D = 64 the calls for sums, stats, positives'
    scores, the loss and coefficients took a quarter of a step of clip_loss. The numbers are those
    of a Reducer, of rules.evaluated() and of a Weigher, to the last bit; but the total of products,
    which is summed in another order, in fp64.
    """

    def reads(self, tensors: Sequence[Tensor]) -> bool:
        """Whether it can take these tensors as they are."""

    def reduce(self, job: Job) -> tuple[Tensor, Tensor]:
        """The loss; and the arena, which is all that its weigher needs beside the job."""

    def weigher(self, job: Job, arena: Tensor, grad: Tensor, products: bool) -> Weigher:
        """The weights for this gradient of the loss; its products may be their total, 0-d."""


def job_of(
    backend: Backend,
    spec: Spec,
    sizes: Sizes,
    plan: Plan,
    tensors: Sequence[Tensor],
    numbers: Numbers | None = None,
    kept: Tensor | None = None,
) -> Job:
    """The job of ``backend``; ``kept``: the dot products that the plan keeps, or room for them."""
    scores, arguments = numbers or Numbers.of(spec, sizes, tensors, backend)
    dtype = backend.operand_dtype(spec, sizes)
    query = Operand(tensors[QUERY], dtype)
    key = query if spec.key == NONE else Operand(tensors[spec.key], dtype, at_once=True)
    return Job(spec, sizes, plan, tensors, scores, arguments, query, key, kept)


class Backend(Protocol):
    """A way to compute blocks. It never sees a loss."""

    name: str
    # Whether a scale given as a tensor may be read by the host.
    reads_scale: bool
    # Whether the stats of a strip are known before all strips are in.
    settles_strips: bool
    # Whether reducing_weigher() may give one: sums and weights from one look at the scores.
    weighs_at_once: bool
    # Whether a weigher multiplies slopes by the gradient of their loss.
    scales_upstream: bool
    # Whether there is a general form beside the fixed shifts, and the device chooses between them.
    has_forms: bool

    def __hash__(self) -> int:
        """Plans are kept for each backend."""

    def available(self) -> str | None:
        """None, or why it cannot run on this machine."""

    def supports(self, spec: Spec, sizes: Sizes) -> str | None:
        """None, or why it cannot compute this problem."""

    def supports_planes(self) -> str | None:
        """None, or why it cannot compute a sweep."""

    def block_math(self, sizes: Sizes) -> BlockMath:
        """What a sweep does with a block besides what reducers and weighers do."""

    def supports_selections(self) -> str | None:
        """None, or why it cannot pick columns."""

    def selector(self, job: Job) -> Selector:
        """What picks columns of the job's rows."""

    def allows_tf32(self) -> bool:
        """Whether fp32 is multiplied in TF32, as torch's switch stands now."""

    def tile(self, spec: Spec, sizes: Sizes) -> Tile:
        """The block shape it works best with."""

    def keeping(self, spec: Spec, sizes: Sizes) -> Keeping:
        """When reduce() is to leave dot products for weights() to find."""

    def operand_dtype(self, spec: Spec, sizes: Sizes) -> torch.dtype:
        """What embeddings and G are multiplied in; the products are accumulated in fp32 or fp64."""

    def reducer(self, job: Job) -> Reducer:
        """The sums of a forward pass."""

    def weigher(
        self, job: Job, state: State, upstream: Upstream, products: bool, rows: slice = WHOLE
    ) -> Weigher:
        """The weights for these upstream gradients; ``products``: row sums are asked for.

        Of ``rows`` alone where only these are settled.
        """

    def block_loss(self, spec: Spec, sizes: Sizes) -> BlockLoss | None:
        """The loss of rows of a single block in one call a pass; None if it has no such call."""

    def reducing_weigher(self, job: Job, products: bool) -> ReducingWeigher | None:
        """Sums of a function and their weights, for the job's loss of rows, from one look at the
        scores; None if it cannot.
        """
