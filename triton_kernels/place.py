"""Where a tile of scores lies: one record that the functions of its epilogue share."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Block(NamedTuple):
    """Where a block of S begins and ends."""

    first_row: Any
    row_end: Any
    first_col: Any
    col_end: Any


class Place(NamedTuple):
    """Rows and columns of a tile, counted in S, where those of the block end, the pairs that there
    are, and the vectors that predicates read.
    """

    rows: Any
    cols: Any
    row_end: Any
    col_end: Any
    inside: Any
    data: Any


@triton.jit
def place_of(row, col, block, data, EVEN: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The tile whose first score is (row, col). EVEN: tiles divide the block, so all its pairs are
    there; no score pays then.
    """
    rows = row + tl.arange(0, ROWS)
    cols = col + tl.arange(0, COLS)
    if EVEN:
        inside = tl.full([ROWS, COLS], 1, tl.int1)
    else:
        inside = (rows < block.row_end)[:, None] & (cols < block.col_end)[None, :]
    return Place(rows, cols, block.row_end, block.col_end, inside, data)


@triton.jit
def of_rows(vector, place):
    """A vector's entries of the tile's rows, as a column; 0 beyond the end."""
    return tl.load(vector + place.rows, mask=place.rows < place.row_end, other=0)[:, None]


@triton.jit
def of_cols(vector, place):
    """A vector's entries of the tile's columns, as a row; 0 beyond the end."""
    return tl.load(vector + place.cols, mask=place.cols < place.col_end, other=0)[None, :]
