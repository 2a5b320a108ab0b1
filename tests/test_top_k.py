"""top_k against a stable sort of all scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contrastile import InputError
from contrastile.ops import top_k
from contrastile.ops.top_k import MOST_BEYOND
from contrastile.problem import Index, Not
from contrastile.testing import AllocationSpy
from selections import (
    COLS,
    PREDICATES,
    ROWS,
    assert_same,
    dense_top_k,
    whole_numbers,
)

pytestmark = pytest.mark.usefixtures("poisoned_empty")

Engine = dict[str, Any]


@pytest.mark.parametrize("name", PREDICATES)
@pytest.mark.parametrize("k", [1, 3, 8, COLS + 2])
def test_against_all_scores(k: int, name: str, engine: Engine) -> None:
    """Ties, rows with fewer than k pairs, more than there are: to the bit, and gradients."""
    pairs, kept = PREDICATES[name]
    query, key = whole_numbers(ROWS, 0), whole_numbers(COLS, 1)
    got = top_k(query, key, k=k, pairs=pairs, **engine)
    assert_same(got, dense_top_k(query @ key.T, kept, k), query, key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision(dtype: torch.dtype, engine: Engine) -> None:
    query, key = whole_numbers(ROWS, 2, dtype=dtype), whole_numbers(COLS, 3, dtype=dtype)
    got = top_k(query, key, k=5, **engine)
    assert got.values.dtype == torch.float32
    dense = dense_top_k((query.float() @ key.float().T), PREDICATES["all"][1], 5)
    assert_same(got, dense, query, key)


def test_smallest(engine: Engine) -> None:
    query, key = whole_numbers(ROWS, 0), whole_numbers(COLS, 1)
    pairs, kept = PREDICATES["mixed"]
    got = top_k(query, key, k=4, pairs=pairs, largest=False, **engine)
    values, indices = dense_top_k(-(query @ key.T), kept, 4)
    assert_same(got, (-values, indices), query, key)


@pytest.mark.parametrize("same", [True, False])
def test_rows_among_themselves(same: bool, engine: Engine) -> None:
    """Each row is a column too, and its gradient is that of both."""
    x = whole_numbers(COLS, 4)
    pairs, kept = Not(Index.diagonal(COLS)), ~torch.eye(COLS, dtype=torch.bool)
    got = top_k(x, x if same else None, k=3, pairs=pairs, **engine)
    assert_same(got, dense_top_k(x @ x.T, kept, 3), x)


def test_memory_that_is_not_contiguous(engine: Engine) -> None:
    query = whole_numbers(6, 0, ROWS).t().detach().requires_grad_()
    key = whole_numbers(2 * COLS, 1, 12)[::2, ::2].detach().requires_grad_()
    got = top_k(query, key, k=3, **engine)
    assert_same(got, dense_top_k(query @ key.T, PREDICATES["all"][1], 3), query, key)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 0), (0, 0)])
def test_nothing(n: int, m: int, engine: Engine) -> None:
    query, key = torch.randn(n, 3, requires_grad=True), torch.randn(m, 3, requires_grad=True)
    got = top_k(query, key, k=2, **engine)
    assert got.values.shape == got.indices.shape == (n, 2)
    assert (got.indices == -1).all() and (got.values == -torch.inf).all()
    torch.where(got.indices >= 0, got.values, 0.0).sum().backward()
    assert not query.grad.any() and not key.grad.any()


def test_no_features(engine: Engine) -> None:
    """All dot products are 0: the first columns."""
    got = top_k(torch.empty(3, 0), torch.empty(5, 0), k=2, **engine)
    assert got.indices.tolist() == [[0, 1]] * 3 and not got.values.any()


def test_not_a_number_comes_first(engine: Engine) -> None:
    """With either sign, in every row; infinity behind it; what is left out stays left out."""
    key = torch.ones(COLS, 1)
    key[[4, 20, 9, 3], 0] = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf])
    got = top_k(torch.ones(ROWS, 1), key, k=4, **engine)
    assert got.indices.tolist() == [[4, 20, 9, 0]] * ROWS
    assert got.values[:, :2].isnan().all() and (got.values[:, 2] == torch.inf).all()
    pairs = Not(Index(torch.full((ROWS,), 4)))
    got = top_k(torch.ones(ROWS, 1), key, k=4, pairs=pairs, **engine)
    assert got.indices.tolist() == [[20, 9, 0, 1]] * ROWS
    all_of_them = top_k(torch.ones(1, 1), key, k=COLS, **engine)
    assert all_of_them.indices[0, -1] == -1 and 3 not in all_of_them.indices


def test_zeros_of_both_signs_are_equal(engine: Engine) -> None:
    key = torch.zeros(COLS, 1)
    key[::2] = -0.0
    assert top_k(torch.ones(1, 1), key, k=4, **engine).indices.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("k", [3, 4, 11, COLS + 2])
@pytest.mark.parametrize("per_processor", [1, 5])
def test_several_walks_and_parts(
    k: int, per_processor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton holds some columns of a row at a time, and shares a row among programs."""
    from contrastile.backends.triton import select

    monkeypatch.setattr(select, "HELD", 4)
    monkeypatch.setattr(select, "PER_PROCESSOR", per_processor)
    query, key = whole_numbers(ROWS, 0), whole_numbers(3 * COLS, 1)
    got = top_k(query, key, k=k, backend="triton")
    kept = torch.ones(ROWS, 3 * COLS, dtype=torch.bool)
    assert_same(got, dense_top_k(query @ key.T, kept, k), query, key)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_matrix_is_stored(backend: str) -> None:
    n, m, k, workspace = 600, 900, 4, 2**17
    query, key = torch.randn(n, 8, requires_grad=True), torch.randn(m, 8, requires_grad=True)
    with AllocationSpy() as spy:
        found = top_k(query, key, k=k, backend=backend, workspace=workspace)
        found.values.sum().backward()
    assert spy.peak_bytes < workspace + 120 * n * k + 80 * (n + m)
    assert spy.largest_bytes < n * m


def test_a_trace() -> None:
    query, key = whole_numbers(ROWS, 0), whole_numbers(COLS, 1)
    pairs, kept = PREDICATES["a hole"]

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(query: torch.Tensor, key: torch.Tensor) -> Any:
        return top_k(query, key, k=3, pairs=pairs)

    assert_same(compiled(query, key), dense_top_k(query @ key.T, kept, 3), query, key)
    x = whole_numbers(COLS, 4)
    own = torch.compile(lambda x: top_k(x, k=3), fullgraph=True, backend="aot_eager")
    assert_same(own(x), dense_top_k(x @ x.T, torch.ones(COLS, COLS, dtype=torch.bool), 3), x)


def test_torch_func() -> None:
    query, key = whole_numbers(ROWS, 0).detach(), whole_numbers(COLS, 1).detach()
    found = torch.func.grad(lambda q: top_k(q, key, k=3).values.sum())(query)
    x = query.clone().requires_grad_()
    top_k(x, key, k=3).values.sum().backward()
    assert torch.equal(found, x.grad)


def test_the_op_keeps_to_the_rules() -> None:
    """torch's own checks of a registered op."""
    from contrastile.ops import selections

    seen: list[Any] = []

    def watch(choice: Any, tensors: Any) -> Any:
        seen.append((choice, tensors))
        return torch.zeros(ROWS, 3), torch.zeros(ROWS, 3, dtype=torch.int64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selections.selections_library, "select", watch)
        patch.setattr(selections, "is_traced", lambda: True)
        top_k(whole_numbers(ROWS, 0), whole_numbers(COLS, 1), k=3)
    choice, tensors = seen[0]
    arguments = list(tensors), choice.spec.text(), choice.k, choice.starts
    torch.library.opcheck(torch.ops.contrastile.select.default, arguments)


def test_as_many_as_there_may_be() -> None:
    """More columns than may be asked for beyond those that there are, if there are as many."""
    x = torch.zeros(1, 1)
    assert top_k(x, torch.zeros(3, 1), k=MOST_BEYOND).indices[0, :4].tolist() == [0, 1, 2, -1]
    every = torch.arange(MOST_BEYOND + 1)
    assert torch.equal(top_k(x, x.expand(len(every), 1), k=len(every)).indices[0], every)


def test_errors() -> None:
    x, y = torch.randn(4, 3), torch.randn(5, 3)
    with pytest.raises(InputError, match="top_k: k must be at least 1, got 0"):
        top_k(x, y, k=0)
    for k in (10**12, MOST_BEYOND + 1):
        with pytest.raises(InputError, match=f"top_k: k must be at most 65536 .* got {k} of 5"):
            top_k(x, y, k=k)
    with pytest.raises(TypeError, match="top_k: k must be an integer, got float"):
        top_k(x, y, k=2.0)
    with pytest.raises(TypeError, match="top_k: k must be an integer, got bool"):
        top_k(x, y, k=True)
    with pytest.raises(TypeError, match="largest must be True or False"):
        top_k(x, y, k=1, largest=1)
    with pytest.raises(InputError, match="top_k: query and key need the same embedding size"):
        top_k(x, torch.randn(5, 4), k=1)
    with pytest.raises(InputError, match="one entry a row"):
        top_k(x, y, k=1, pairs=Index(torch.zeros(5, dtype=torch.int64)))
    with pytest.raises(InputError, match="backend 'cuda' cannot compute this"):
        top_k(x, y, k=1, backend="cuda")
    with pytest.raises(RuntimeError, match="top_k: double backward is not supported"):
        x.requires_grad_()
        values = top_k(x, y, k=1).values
        (grad,) = torch.autograd.grad(values.square().sum(), x, create_graph=True)
        grad.sum().backward()
