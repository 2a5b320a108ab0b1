"""group_max against the maximum of each group of all scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contrastile import InputError
from contrastile.ops import group_max
from contrastile.testing import AllocationSpy
from selections import (
    COLS,
    PREDICATES,
    ROWS,
    STARTS,
    assert_same,
    dense_group_max,
    whole_numbers,
)

pytestmark = pytest.mark.usefixtures("poisoned_empty")

Engine = dict[str, Any]
GROUPS = {
    "ragged": STARTS,
    "one": torch.tensor([0, COLS]),
    "each a group": torch.arange(COLS + 1),
    "no group": torch.tensor([7]),
    "empty ones": torch.tensor([COLS, COLS, COLS]),
}


@pytest.mark.parametrize("name", PREDICATES)
@pytest.mark.parametrize("groups", [name for name in GROUPS if name != "no group"])
def test_against_all_scores(groups: str, name: str, engine: Engine) -> None:
    pairs, kept = PREDICATES[name]
    query, key = whole_numbers(ROWS, 0), whole_numbers(COLS, 1)
    got = group_max(query, key, GROUPS[groups], pairs=pairs, **engine)
    assert_same(got, dense_group_max(query @ key.T, kept, GROUPS[groups]), query, key)


def test_no_group(engine: Engine) -> None:
    got = group_max(torch.randn(4, 3), torch.randn(8, 3), GROUPS["no group"], **engine)
    assert got.values.shape == got.indices.shape == (4, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision(dtype: torch.dtype, engine: Engine) -> None:
    query, key = whole_numbers(ROWS, 2, dtype=dtype), whole_numbers(COLS, 3, dtype=dtype)
    got = group_max(query, key, STARTS.int(), **engine)
    assert got.values.dtype == torch.float32
    dots = query.float() @ key.float().T
    assert_same(got, dense_group_max(dots, PREDICATES["all"][1], STARTS), query, key)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 0)])
def test_nothing(n: int, m: int, engine: Engine) -> None:
    query, key = torch.randn(n, 3, requires_grad=True), torch.randn(m, 3, requires_grad=True)
    got = group_max(query, key, torch.tensor([0, m, m]), **engine)
    assert got.values.shape == got.indices.shape == (n, 2)
    assert (got.indices == -1).all() and (got.values == -torch.inf).all()


def test_not_a_number_wins(engine: Engine) -> None:
    key = torch.ones(COLS, 1)
    key[[8, 9, 20, 30], 0] = torch.tensor([-torch.nan, torch.nan, torch.inf, torch.nan])
    key[1:5] = -torch.inf
    got = group_max(torch.ones(2, 1), key, STARTS, **engine)
    assert got.indices.tolist() == [[-1, -1, 5, -1, 8, 20, -1]] * 2
    assert got.values[:, 4].isnan().all() and (got.values[:, 5] == torch.inf).all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_matrix_is_stored(backend: str) -> None:
    n, m, count, workspace = 600, 900, 9, 2**17
    query, key = torch.randn(n, 8, requires_grad=True), torch.randn(m, 8, requires_grad=True)
    starts = torch.arange(0, m + 1, m // count)
    with AllocationSpy() as spy:
        found = group_max(query, key, starts, backend=backend, workspace=workspace)
        found.values.sum().backward()
    assert spy.peak_bytes < workspace + 120 * n * count + 80 * (n + m)
    assert spy.largest_bytes < n * m


def test_a_trace() -> None:
    query, key = whole_numbers(ROWS, 0), whole_numbers(COLS, 1)
    compiled = torch.compile(group_max, fullgraph=True, backend="aot_eager")
    dense = dense_group_max(query @ key.T, PREDICATES["all"][1], STARTS)
    assert_same(compiled(query, key, STARTS), dense, query, key)
    with pytest.raises(InputError, match="group_starts must rise"):
        compiled(query, key, STARTS.flip(0))


def test_errors() -> None:
    x, y = torch.randn(4, 3), torch.randn(5, 3)
    for wrong in ([0, 6], [-1, 5], [3, 2, 5], [0, 5, 2]):
        with pytest.raises(InputError, match="group_max: group_starts must rise from at least 0"):
            group_max(x, y, torch.tensor(wrong))
    with pytest.raises(InputError, match=r"group_starts must be \[groups \+ 1\]"):
        group_max(x, y, torch.zeros(0, dtype=torch.int64))
    with pytest.raises(InputError, match="group_starts must be integers"):
        group_max(x, y, torch.tensor([0.0, 5.0]))
