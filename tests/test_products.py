"""What matrix products leave to be done: symmetry to the last bit, sums of a block in fp64."""

from __future__ import annotations

import pytest
import torch
from contrastile import native
from contrastile.engine.products import add_sums, make_symmetric
from helpers import generator
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
SIZES = [1, 31, 33, 150, 700]

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extension, and as where it was not built."""
    if request.param == "plain":
        monkeypatch.setattr(native, "load_for", lambda _: None)
    else:
        pytest.importorskip("contrastile._C", reason="the native extension is not built")


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=generator(4), dtype=torch.float64).to(dtype)


@each_dtype
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("apart", [False, True])
def test_what_lies_above_the_diagonal_decides(size: int, apart: bool, dtype: torch.dtype) -> None:
    square = drawn(size, 2 * size, dtype=dtype)[:, :size]
    square = square if apart else square.contiguous()
    expected = square.triu() + square.triu(1).t()
    make_symmetric(square)
    assert torch.equal(square, expected)


@each_dtype
@pytest.mark.parametrize("shape", [(1, 1), (33, 300), (300, 33), (513, 700)], ids=str)
@pytest.mark.parametrize("sides", [(True, True), (True, False), (False, True)])
def test_sums(shape: tuple[int, int], sides: tuple[bool, bool], dtype: torch.dtype) -> None:
    block = drawn(*shape, dtype=dtype)
    rows, cols = (
        torch.ones(length, dtype=torch.float64) if wanted else None
        for length, wanted in zip(shape, sides, strict=True)
    )
    add_sums(block, rows, cols)
    for found, dim in ((rows, 1), (cols, 0)):
        if found is not None:
            torch.testing.assert_close(found, 1 + block.double().sum(dim), rtol=1e-13, atol=1e-12)
