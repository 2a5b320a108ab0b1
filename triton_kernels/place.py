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


class PlaneBlock(NamedTuple):
    """A plane's numbers of a block in memory, and the stride of its rows."""

    numbers: Any
    stride: Any


class Place(NamedTuple):
    """Rows and columns of a tile, counted in S, where the block begins, where its rows and columns
    end, the pairs that there are, and what predicates read: vectors, and :class:`PlaneBlock`.
    """

    rows: Any
    cols: Any
    first_row: Any
    row_end: Any
    first_col: Any
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
    return Place(
        rows, cols, block.first_row, block.row_end, block.first_col, block.col_end, inside, data
    )


@triton.jit
def of_rows(vector, place):
    """A vector's entries of the tile's rows, as a column; 0 beyond the end."""
    return tl.load(vector + place.rows, mask=place.rows < place.row_end, other=0)[:, None]


@triton.jit
def of_cols(vector, place):
    """A vector's entries of the tile's columns, as a row; 0 beyond the end."""
    return tl.load(vector + place.cols, mask=place.cols < place.col_end, other=0)[None, :]


@triton.jit
def of_plane(plane, place):
    """A plane's numbers of the tile; 0 outside."""
    rows = (place.rows - place.first_row).to(tl.int64)
    cols = (place.cols - place.first_col).to(tl.int64)
    places = plane.numbers + rows[:, None] * plane.stride + cols[None, :]
    return tl.load(places, mask=place.inside, other=0.0)
