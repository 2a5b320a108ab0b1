"""Tiles of a block of S: the order they are visited in, and their dot products."""

from __future__ import annotations

import triton
import triton.language as tl

# Where a block begins and ends: kernels are not compiled anew for another batch size.
BOUNDS = ["first_row", "row_end", "first_col", "col_end"]


@triton.jit
def tile_at(visit, row_tiles, col_tiles, GROUP: tl.constexpr):
    """(tile row, tile column) of a visit, counted from 0: GROUP tile rows at a time, so that the
    programs that run together share their keys and queries in the L2 cache.
    """
    in_group = GROUP * col_tiles
    first = (visit // in_group) * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    return first + visit % height, (visit % in_group) // height


@triton.jit
def device_descriptor(pointer, height, width, stride, ROWS: tl.constexpr, COLS: tl.constexpr):
    """A descriptor of a matrix made on the device: warp specialisation takes none from the host."""
    return tl.make_tensor_descriptor(pointer, [height, width], [stride, 1], [ROWS, COLS])


@triton.jit
def dot_products(
    query,
    key,
    query_stride,
    query_step,
    key_stride,
    key_step,
    row,
    col,
    row_end,
    col_end,
    D: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """<q_i, k_j> of the tile at (row, col). ``query`` and ``key`` are tensor descriptors, or
    pointers with strides of a row and of a feature; beyond the ends they count as zero or not at
    all: whoever uses the result masks it.
    """
    dots = tl.zeros([ROWS, COLS], ACC)
    for depth in range(0, D, DEPTH):
        if DESCRIPTORS:
            q = query.load([row, depth])
            k = key.load([col, depth])
        else:
            rows = (row + tl.arange(0, ROWS)).to(tl.int64)
            cols = (col + tl.arange(0, COLS)).to(tl.int64)
            q = slab(query, query_stride, query_step, rows, rows < row_end, depth, D, DEPTH)
            k = slab(key, key_stride, key_step, cols, cols < col_end, depth, D, DEPTH)
        dots = tl.dot(q, k.T, dots, input_precision=PRECISION, out_dtype=ACC)
    return dots


@triton.jit
def slab(x, stride, step, rows, wanted, depth, D: tl.constexpr, DEPTH: tl.constexpr):
    """DEPTH features of ``rows`` (64-bit: times the stride they pass 2^31 long before memory ends);
    0 beyond D and of rows not ``wanted``.
    """
    features = (depth + tl.arange(0, DEPTH)).to(tl.int64)
    inside = wanted[:, None] & (features < D)[None, :]
    places = x + rows[:, None] * stride + features[None, :] * step
    return tl.load(places, mask=inside, other=0.0)


@triton.jit
def keep_dots(kept, stride, dots, rows, cols, inside):
    """Store the dot products of a tile at ``rows`` and ``cols`` of the block's memory."""
    places = kept + rows.to(tl.int64)[:, None] * stride + cols.to(tl.int64)[None, :]
    tl.store(places, dots, mask=inside)


@triton.jit
def kept_dots(kept, stride, rows, cols, inside):
    """What :func:`keep_dots` stored; 0 outside."""
    places = kept + rows.to(tl.int64)[:, None] * stride + cols.to(tl.int64)[None, :]
    return tl.load(places, mask=inside, other=0.0)


@triton.jit
def side_of_diagonal(row, col, ROWS: tl.constexpr, COLS: tl.constexpr):
    """-1, 0 or 1: the tile is below the diagonal of a square block, on it, or above it.

    On it are all tiles of the squares, as large as the longer side of a tile, that the diagonal
    crosses: together they hold every pair of such a square both ways.
    """
    LONGER: tl.constexpr = max(ROWS, COLS)
    across = col // LONGER
    down = row // LONGER
    return tl.where(across > down, 1, tl.where(across == down, 0, -1))
