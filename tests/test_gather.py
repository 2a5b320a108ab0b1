"""gather_dot and merge_log_sum_exp against plain torch."""

from __future__ import annotations

import pytest
import torch
from contrastile.ops import gather_dot, log_sum_exp, merge_log_sum_exp
from dense import compare, inputs
from helpers import Arguments, cast, generator
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROWS, COLS = 23, 31


def pairs_of(arguments: Arguments, rows: Tensor, columns: Tensor) -> Tensor:
    dots = (arguments["query"][rows] * arguments["key"][columns.clamp(min=0)]).sum(1)
    return torch.where(columns < 0, 0.0, dots)


def embeddings(size: int = 6) -> Arguments:
    return {name: v for name, v in inputs(ROWS, COLS, size).items() if name != "scale"}


def csr() -> tuple[Tensor, Tensor, Tensor]:
    """Rows with none, one and several pairs; the same pair twice; some -1."""
    lengths = torch.randint(0, 5, (ROWS,), generator=generator(1))
    lengths[[0, 7, ROWS - 1]] = 0
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    columns = torch.randint(-1, COLS, (int(starts[-1]),), generator=generator(2))
    return starts, columns, torch.arange(ROWS).repeat_interleave(lengths)


@pytest.mark.parametrize("size", [0, 1, 6, 65])
def test_one_pair_a_row(size: int) -> None:
    columns = torch.randint(-1, COLS, (ROWS,), generator=generator(0))
    columns[:3] = torch.tensor([-1, 4, 4])
    compare(
        lambda given: {"dots": gather_dot(**given, columns=columns)},
        lambda given: {"dots": pairs_of(given, torch.arange(ROWS), columns)},
        embeddings(size),
    )


@pytest.mark.parametrize("size", [0, 1, 6, 65])
def test_a_list_of_pairs(size: int) -> None:
    starts, columns, rows = csr()
    compare(
        lambda given: {"dots": gather_dot(**given, columns=columns, row_starts=starts)},
        lambda given: {"dots": pairs_of(given, rows, columns)},
        embeddings(size),
    )


@pytest.mark.parametrize("chunk", [1, 100, 1000])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrastile.engine.row_steps.CHUNK_BYTES", chunk)
    test_one_pair_a_row(6)
    test_a_list_of_pairs(6)


@pytest.mark.parametrize("wanted", ["query", "key"])
def test_one_gradient_alone(wanted: str) -> None:
    starts, columns, rows = csr()
    arguments = {name: value.detach() for name, value in embeddings().items()}
    arguments[wanted].requires_grad_()
    compare(
        lambda given: {"dots": gather_dot(**given, columns=columns, row_starts=starts)},
        lambda given: {"dots": pairs_of(given, rows, columns)},
        arguments,
    )


def test_the_same_tensor_on_both_sides() -> None:
    columns = torch.arange(ROWS).roll(2)
    arguments = {"query": embeddings()["query"]}
    compare(
        lambda given: {"dots": gather_dot(given["query"], given["query"], columns)},
        lambda given: {"dots": (given["query"] * given["query"].roll(2, 0)).sum(1)},
        arguments,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision(dtype: torch.dtype) -> None:
    """Products and sums in fp32, whatever the input."""
    arguments = cast(embeddings(65), dtype)
    columns = torch.randint(0, COLS, (ROWS,), generator=generator(0))
    got = gather_dot(**arguments, columns=columns)
    expected = pairs_of(cast(arguments, torch.float64), torch.arange(ROWS), columns)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-5)
    got.sum().backward()
    assert arguments["query"].grad.dtype == arguments["key"].grad.dtype == dtype


def test_no_pairs_and_no_rows() -> None:
    key = torch.randn(4, 3, requires_grad=True)
    none = gather_dot(
        torch.randn(2, 3), key, torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    )
    assert none.shape == (0,)
    none.sum().backward()
    assert not key.grad.any()
    assert gather_dot(torch.empty(0, 3), key, torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_rows_without_a_pair_among_no_keys() -> None:
    query = torch.randn(4, 3, requires_grad=True)
    dots = gather_dot(query, torch.empty(0, 3), torch.full((4,), -1))
    dots.sum().backward()
    assert not dots.any() and not query.grad.any()


def test_a_row_without_a_pair_sees_no_key() -> None:
    """NaN in the first key is not its gradient."""
    query, key = torch.randn(2, 3, requires_grad=True), torch.full((2, 3), torch.nan)
    gather_dot(query, key, torch.tensor([-1, -1])).sum().backward()
    assert torch.equal(query.grad, torch.zeros(2, 3))


# Merging.


def blocks(count: int = 3) -> Arguments:
    rng = generator(5)
    made = {str(i): torch.randn(ROWS, generator=rng).double() * 5 for i in range(count)}
    made["0"][[2, 5]] = -torch.inf
    if count > 1:
        made["1"][[5, 9]] = -torch.inf
    return {name: block.requires_grad_() for name, block in made.items()}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_merge(count: int) -> None:
    arguments = blocks(count)

    def dense(given: Arguments) -> dict[str, Tensor]:
        stacked = torch.stack(list(given.values()))
        nothing = torch.isneginf(stacked).all(0)
        merged = torch.where(nothing, 0.0, stacked).logsumexp(0)
        return {"merged": torch.where(nothing, -torch.inf, merged)}

    compare(lambda given: {"merged": merge_log_sum_exp(*given.values())}, dense, arguments)


def test_merging_column_blocks_is_the_whole() -> None:
    arguments = inputs(ROWS, COLS, scale="0-d")
    key = arguments["key"]

    def merged(given: Arguments) -> dict[str, Tensor]:
        parts = [{**given, "key": part} for part in given["key"].split([10, 1, 20])]
        return {"lse": merge_log_sum_exp(*(log_sum_exp(**part).rows[0] for part in parts))}

    compare(merged, lambda given: {"lse": log_sum_exp(**given).rows[0]}, {**arguments, "key": key})


def test_merge_shows_nan_and_infinity() -> None:
    one = torch.tensor([torch.nan, torch.inf, 0.0])
    merged = merge_log_sum_exp(one, torch.tensor([-torch.inf, 1.0, torch.nan]))
    assert merged[0].isnan() and merged[1] == torch.inf and merged[2].isnan()
