"""Items that share an id: their codes, and sums over them in O(N D), without the scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..parallel import Columns, OwnColumns, Peers
from ..problem import Equal, Phi, Term
from ..problem.checks import SEVERAL
from .options import widen

# For the losses in which row i of one set belongs to row i of the other.
SEVERAL_VECTORS = f"{SEVERAL}; ids= leaves those out, multi_positive_nce makes them positives"


@dataclass(frozen=True, eq=False)
class Groups:
    """Query and key ids as codes below ``len(sizes)``, with the number of keys of each code.

    An item whose id is ``ignore_label`` belongs to no class: it gets a code of its own. All shapes
    follow from the numbers of items, none from their ids: nothing waits for a device or breaks a
    compiled graph. Codes without an item cost a row of zeros.
    """

    query: Tensor
    key: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, query_ids: Tensor, key_ids: Tensor, ignore_label: int | None = None) -> Groups:
        """Groups of two sets of items, by int64 ids: ignored ones share a class with none."""
        codes = _codes(torch.cat([query_ids, key_ids]), ignore_label)
        query, key = codes.split([query_ids.shape[0], key_ids.shape[0]])
        return cls(query, key, _sizes(key, codes.shape[0]))

    @classmethod
    def within(cls, ids: Tensor, ignore_label: int | None = None) -> Groups:
        """Groups of one set of items, queries and keys at once: an ignored item's class is itself.

        Both sides are one tensor, which tells that scores are symmetric without comparing them.
        """
        own = _codes(ids, ignore_label)
        return cls(own, own, _sizes(own, own.shape[0]))

    @classmethod
    def among(cls, columns: Columns, ids: Tensor, ignore_label: int | None = None) -> Groups:
        """Groups of one set of items, of which this process has the rows ``columns.own``."""
        return cls.within(columns.everywhere(ids), ignore_label).rows(columns)

    def rows(self, own: Columns) -> Groups:
        """The same with this process's own queries alone."""
        if isinstance(own, OwnColumns):
            return self
        return Groups(self.query[own.own], self.key, self.sizes)

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
        totals = wide.new_zeros(self.sizes.shape[0], wide.shape[1]).index_add_(0, self.key, wide)
        return (widen(query) * totals[self.query]).sum(1)

    def sums(self, values: Tensor) -> Tensor:
        """For each query, the sum of ``values`` [M] over the keys of its id."""
        totals = values.new_zeros(self.sizes.shape[0]).index_add_(0, self.key, values)
        return totals[self.query]

    def flipped(self) -> Groups:
        """The same with the roles of queries and keys exchanged."""
        return Groups(self.key, self.query, _sizes(self.query, self.sizes.shape[0]))


def _codes(ids: Tensor, ignore_label: int | None) -> Tensor:
    """For each id the number of smaller ones; for an ignored item its own place in their order."""
    ordered, order = ids.sort()
    codes = torch.searchsorted(ordered, ordered)
    if ignore_label is not None:
        places = torch.arange(ids.shape[0], device=ids.device)
        codes = torch.where(ordered == ignore_label, places, codes)
    return torch.empty_like(codes).scatter_(0, order, codes)


def _sizes(codes: Tensor, number: int) -> Tensor:
    """How many items have each code below ``number``."""
    return codes.new_zeros(number).index_add_(0, codes, torch.ones_like(codes))


def class_dot_sums(columns: Columns, groups: Groups, query: Tensor, key: Tensor) -> Tensor:
    """For each query, the sum of its dot products with the keys of its id, on all ranks."""
    if isinstance(columns, OwnColumns):
        return groups.dot_sums(query, key)
    term = Term(Phi.IDENTITY, Equal(groups.query, groups.key))
    return columns.pair_sum(query, key, terms=[term]).rows[0]


def all_dot_sums(peers: Peers, query: Tensor, key: Tensor) -> Tensor:
    """For each query, the sum of its dot products with all keys, on all ranks."""
    return (widen(query) * peers.total(widen(key).sum(0))).sum(1)
