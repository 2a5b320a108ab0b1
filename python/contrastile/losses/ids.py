"""Sums over the items that share an id, in O(N D): no pass over the scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .options import widen


@dataclass(frozen=True, eq=False)
class Groups:
    """Query and key ids as small codes, with the number of keys of each code."""

    query: Tensor
    key: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, query_ids: Tensor, key_ids: Tensor) -> Groups:
        """Groups of int64 ids; ``query_ids is key_ids`` is allowed."""
        every = query_ids if query_ids is key_ids else torch.cat([query_ids, key_ids])
        codes, inverse = torch.unique(every, return_inverse=True)
        query, key = inverse[: len(query_ids)], inverse[len(inverse) - len(key_ids) :]
        sizes = torch.bincount(key, minlength=len(codes))
        return cls(query, key, sizes)

    def counts(self) -> Tensor:
        """For each query, the number of keys with its id, int64."""
        return self.sizes[self.query]

    def dot_sums(self, query: Tensor, key: Tensor) -> Tensor:
        """For each query, the sum of its dot products with the keys of its id."""
        wide = widen(key)
        totals = wide.new_zeros(len(self.sizes), wide.shape[1]).index_add(0, self.key, wide)
        return (widen(query) * totals[self.query]).sum(1)

    def sums(self, values: Tensor) -> Tensor:
        """For each query, the sum of ``values`` [M] over the keys of its id."""
        totals = values.new_zeros(len(self.sizes)).index_add(0, self.key, values)
        return totals[self.query]

    def flipped(self) -> Groups:
        """The same with the roles of queries and keys exchanged."""
        sizes = torch.bincount(self.query, minlength=len(self.sizes))
        return Groups(self.key, self.query, sizes)


def all_dot_sums(query: Tensor, key: Tensor) -> Tensor:
    """For each query, the sum of its dot products with all keys."""
    return (widen(query) * widen(key).sum(0)).sum(1)
