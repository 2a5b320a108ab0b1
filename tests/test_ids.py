"""Groups of items by id: equal to comparing all pairs, with shapes that no id decides."""

from __future__ import annotations

import pytest
import torch
from contrastile.losses.ids import Groups
from torch import Tensor

INT64 = torch.iinfo(torch.int64)
SIZES = [(0, 0), (0, 3), (4, 0), (1, 1), (1, 5), (7, 7), (40, 23)]
LABELS = [None, -1, 2, INT64.min, INT64.max]
# The values that ids are drawn from.
POOLS = {
    "few": [-1, 0, 1, 2],
    "one": [2],
    "extremes": [INT64.min, INT64.min + 1, -1, 0, 2, INT64.max - 1, INT64.max],
    "ignored": [-1],
}
each_label = pytest.mark.parametrize("label", LABELS)
each_pool = pytest.mark.parametrize("pool", POOLS)


def drawn(pool: str, n: int, rng: torch.Generator) -> Tensor:
    values = torch.tensor(POOLS[pool])
    return values[torch.randint(len(values), (n,), generator=rng)]


def whole(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Whole numbers, so that sums of their products are exact in any order."""
    return torch.randint(-8, 9, shape, generator=rng).float()


def same_class(query_ids: Tensor, key_ids: Tensor, label: int | None) -> Tensor:
    same = query_ids[:, None] == key_ids
    return same if label is None else same & (key_ids != label)


def check(groups: Groups, same: Tensor, rng: torch.Generator) -> None:
    """``groups`` answers everything as the dense ``same`` [N, M] does."""
    n, m = same.shape
    query, key, values = whole((n, 3), rng), whole((m, 3), rng), whole((m,), rng)
    assert torch.equal(groups.query[:, None] == groups.key, same)
    assert torch.equal(groups.counts(), same.sum(1))
    assert torch.equal(groups.sums(values), same.float() @ values)
    assert torch.equal(groups.dot_sums(query, key), (query @ key.T * same).sum(1))


@each_label
@each_pool
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_two_sets(n: int, m: int, pool: str, label: int | None) -> None:
    rng = torch.Generator().manual_seed(n + m)
    query_ids, key_ids = drawn(pool, n, rng), drawn(pool, m, rng)
    groups = Groups.of(query_ids, key_ids, label)
    same = same_class(query_ids, key_ids, label)
    check(groups, same, rng)
    check(groups.flipped(), same.T, rng)
    assert groups.sizes.shape == (n + m,)


@each_label
@each_pool
@pytest.mark.parametrize("n", sorted({n for n, _ in SIZES}))
def test_one_set(n: int, pool: str, label: int | None) -> None:
    rng = torch.Generator().manual_seed(n)
    ids = drawn(pool, n, rng)
    groups = Groups.within(ids, label)
    # An item without a class is still itself.
    same = same_class(ids, ids, label) | torch.eye(n, dtype=torch.bool)
    check(groups, same, rng)
    views = groups.in_two_views()
    check(views, same.repeat(2, 2), rng)
    assert groups.query is groups.key
    assert views.query is views.key
    assert groups.sizes.shape == (n,)


def answers(x: Tensor, y: Tensor, query_ids: Tensor, key_ids: Tensor, label: int | None) -> Tensor:
    """Everything that groups can be asked, of two sets and of one, as one vector."""
    one, two = Groups.within(query_ids, label), Groups.of(query_ids, key_ids, label)
    views = one.in_two_views()
    twice = x.repeat(2, 1)
    asked = [(one, x, x), (views, twice, twice), (two, x, y), (two.flipped(), y, x)]
    parts = [
        part
        for groups, query, key in asked
        for part in (groups.counts(), groups.dot_sums(query, key), groups.sums(key[:, 0]))
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("label", [None, -1])
def test_traces_as_one_graph_for_all_ids_and_sizes(label: int | None) -> None:
    rng = torch.Generator().manual_seed(0)
    torch._dynamo.reset()
    traced = torch.compile(answers, fullgraph=True, dynamic=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n, m in [(5, 9), (12, 4), (40, 23)]:
            x, y = whole((n, 3), rng), whole((m, 3), rng)
            for pool in POOLS:
                ids = drawn(pool, n, rng), drawn(pool, m, rng)
                assert torch.equal(traced(x, y, *ids, label), answers(x, y, *ids, label))
