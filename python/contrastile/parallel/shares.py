"""How the rows of an argument are spread over the ranks of a group."""

from __future__ import annotations

from typing import NamedTuple


class Share(NamedTuple):
    """How many rows each rank has, and which are this rank's among all, rank by rank."""

    sizes: tuple[int, ...]
    rank: int

    @property
    def total(self) -> int:
        """Rows of all ranks."""
        return sum(self.sizes)

    @property
    def own(self) -> slice:
        """This rank's rows among all."""
        return self.of(self.rank)

    def of(self, rank: int) -> slice:
        """A rank's rows among all."""
        start = sum(self.sizes[:rank])
        return slice(start, start + self.sizes[rank])

    def times(self, count: int) -> Share:
        """Where each row stands ``count`` times among its rank's."""
        return Share(tuple([count * size for size in self.sizes]), self.rank)
