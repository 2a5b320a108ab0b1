"""What a device backend is: six calls, between which a job's passes over blocks are the same."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from ...engine.plan import Block
from ...engine.state import State, Upstream, Vectors
from .entries import Entries
from .forms import Form
from .memory import Memory


class Output(NamedTuple):
    """Where the weights of a block go, and what else is made of them.

    Attributes:
        weights: their memory.
        unit: what they are multiplied by.
        products: room for row sums of G times dot products.
    """

    weights: Tensor
    unit: Tensor | None
    products: Tensor | None


class Kernels(Protocol):
    """The kernels of a device, bound to a job. Nothing waits for the device."""

    # Whether reduce() settles a problem that is one block in the general form alone.
    settles_only_block: bool

    def prepare(self, memory: Memory) -> None:
        """Before all blocks: the fixed shifts and their spans; the flag at 0; the positives' dot
        products, unless they were gathered for ranks; sums that are added to at 0.
        """

    def reduce(self, block: Block, form: Form, memory: Memory) -> None:
        """Add a block's sums of a form; of two forms, where the flag does not say the other."""

    def certify(self, memory: Memory) -> None:
        """Set the flag where the fixed shift of any log-sum-exp cost precision."""

    def settle(self, memory: Memory) -> None:
        """Log-sum-exps, in bits and in nats, of the form that holds."""

    def row_loss(
        self, memory: Memory, rows: Vectors, cols: Vectors, slopes: bool
    ) -> tuple[Tensor, Upstream | None] | None:
        """The loss of rows of these stats, and its ``slopes`` for a gradient of 1 if they are
        asked for; None leaves it to torch's operations.
        """

    def coefficients(self, state: State, entries: Entries) -> Tensor | None:
        """Fill what ``entries`` have room for; returns the unit that all are multiplied by."""

    def weigh(self, block: Block, output: Output, state: State, entries: Entries) -> None:
        """The weights of a block, the positives among them, and its share of the products."""


class SummingKernels(Kernels, Protocol):
    """Those that can make sums and weights from one look at the scores."""

    def slopes_of_sums(self, memory: Memory) -> Upstream:
        """The slopes of a loss of sums, which depend on the positives' scores alone."""

    def weigh_and_sum(
        self, block: Block, output: Output, state: State, entries: Entries, memory: Memory
    ) -> None:
        """As :meth:`weigh`, and add the block's sums of a function to those of the rows."""
