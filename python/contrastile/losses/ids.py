"""Items that share an id: their codes, and sums over them in O(N D), without the scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..problem.checks import SEVERAL
from .options import widen

# For the losses that pair row i with row i.
SEVERAL_VECTORS = f"{SEVERAL}; ids= leaves those out, multi_positive_nce makes them positives"


@dataclass(frozen=True, eq=False)
class Groups:
    """Query and key ids as small codes, with the number of keys of each code.

    An item whose id is ``ignore_label`` belongs to no class: it gets a code of its own.
    """

    query: Tensor
    key: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, query_ids: Tensor, key_ids: Tensor, ignore_label: int | None = None) -> Groups:
        """Groups of two sets of items, by int64 ids: ignored ones share a class with none."""
        codes, inverse = torch.unique(torch.cat([query_ids, key_ids]), return_inverse=True)
        query, key = inverse.split([query_ids.shape[0], key_ids.shape[0]])
        number = codes.shape[0]
        if ignore_label is not None:
            # Codes that the other side does not have do for all of them.
            query = query.masked_fill(query_ids == ignore_label, number)
            key = key.masked_fill(key_ids == ignore_label, number + 1)
            number += 2
        return cls(query, key, torch.bincount(key, minlength=number))

    @classmethod
    def within(cls, ids: Tensor, ignore_label: int | None = None) -> Groups:
        """Groups of one set of items, queries and keys at once: an ignored item's class is itself.

        Both sides are one tensor, which tells that scores are symmetric without comparing them.
        """
        codes, own = torch.unique(ids, return_inverse=True)
        if ignore_label is not None:
            ignored = ids == ignore_label
            own = torch.where(ignored, codes.shape[0] - 1 + ignored.cumsum(0), own)
        return cls(own, own, torch.bincount(own, minlength=codes.shape[0]))

    def in_two_views(self) -> Groups:
        """One set of items, each of them twice: first all first views, then all second ones."""
        both = self.query.repeat(2)
        return Groups(both, both, 2 * self.sizes)

    def counts(self) -> Tensor:
        """For each query, the number of keys with its id, int64."""
        return self.sizes[self.query]

    def dot_sums(self, query: Tensor, key: Tensor) -> Tensor:
        """For each query, the sum of its dot products with the keys of its id."""
        wide = widen(key)
        totals = wide.new_zeros(self.sizes.shape[0], wide.shape[1]).index_add(0, self.key, wide)
        return (widen(query) * totals[self.query]).sum(1)

    def sums(self, values: Tensor) -> Tensor:
        """For each query, the sum of ``values`` [M] over the keys of its id."""
        totals = values.new_zeros(self.sizes.shape[0]).index_add(0, self.key, values)
        return totals[self.query]

    def flipped(self) -> Groups:
        """The same with the roles of queries and keys exchanged."""
        sizes = torch.bincount(self.query, minlength=self.sizes.shape[0])
        return Groups(self.key, self.query, sizes)


def all_dot_sums(query: Tensor, key: Tensor) -> Tensor:
    """For each query, the sum of its dot products with all keys."""
    return (widen(query) * widen(key).sum(0)).sum(1)
