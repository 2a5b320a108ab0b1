"""The problem of one step: how many rows each rank has, of which size and dtype, for which loss."""

from __future__ import annotations

from typing import NamedTuple

ITEMSIZE = {"fp32": 4, "bf16": 2, "fp16": 2, "fp64": 8}


class Kind(NamedTuple):
    """What a loss asks of ranks and GPUs.

    Attributes:
        column_sums: vectors of them, which ranks merge.
        biased: whether columns have biases, which are learned.
        one_look: whether a GPU alone makes sums and weights from one look at the scores.
    """

    column_sums: int
    biased: bool
    one_look: bool


# Losses whose exchange is known.
LOSSES = {
    "clip_loss": Kind(1, False, False),
    "info_nce": Kind(0, False, False),
    "siglip_loss": Kind(0, True, True),
}


class Shape(NamedTuple):
    """``rows``: of each rank, as many queries as keys."""

    rows: tuple[int, ...]
    size: int
    dtype: str
    loss: str

    @staticmethod
    def even(batch: int, gpus: int, size: int, dtype: str, loss: str) -> Shape:
        """A batch that all ranks have an equal part of.

        Raises:
            ValueError: the ranks do not divide it.
        """
        if batch % gpus:
            raise ValueError(f"a batch of {batch} does not divide by {gpus} GPUs")
        return Shape((batch // gpus,) * gpus, size, dtype, loss)

    @property
    def world(self) -> int:
        """Ranks."""
        return len(self.rows)

    @property
    def total(self) -> int:
        """Rows of all ranks, and so columns."""
        return sum(self.rows)

    @property
    def itemsize(self) -> int:
        """Bytes of an embedding's number."""
        return ITEMSIZE[self.dtype]

    @property
    def wide(self) -> int:
        """Bytes of a number as gradients are added up."""
        return max(4, self.itemsize)

    @property
    def kind(self) -> Kind:
        """What the loss asks of ranks and GPUs."""
        return LOSSES[self.loss]

    def keys(self, rank: int) -> int:
        """Bytes of the keys of a rank."""
        return self.rows[rank] * self.size * self.itemsize

    def gradients(self, rank: int) -> int:
        """Bytes of the gradients of a rank's keys, while they are added up."""
        return self.rows[rank] * self.size * self.wide
