"""Log-sum-exps: partial sums of a block's channels, and the weights G of their gradient.

Exponents are in bits. In the bounded form a channel has one shift for all pairs, so one power
serves rows and columns; in the general form each tile has the largest exponent of each row and
column beside its sum. Of a large problem both are launched; ``flag`` says on the device which one
works, the other returns at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .exponents import FLOOR, affine, included

# Of the exponents of normal numbers, fp32 and fp64.
LOWEST = tl.constexpr(-126.0)
LOWEST_DOUBLE = tl.constexpr(-1022.0)


@triton.jit
def store_sums(
    dots,
    inside,
    vectors,
    data,
    shift,
    CODE: tl.constexpr,
    AT: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    mirrored,
    row_sums,
    col_sums,
    SUMS_ROWS: tl.constexpr,
    SUMS_COLS: tl.constexpr,
):
    """Sums of 2^(y - shift) over a tile's columns and rows; one power serves both."""
    mask = included(inside, data, CODE, AT, rows, cols, row_end, col_end)
    y = affine(dots, vectors, data, shift, CODE, AT, rows, cols, row_end, col_end)
    if CODE[AT + FLOOR]:
        # Only of no pair is the sum 0: what would vanish stays, as the smallest normal number.
        LEAST: tl.constexpr = LOWEST_DOUBLE if y.dtype == tl.float64 else LOWEST
        y = tl.maximum(y, LEAST, propagate_nan=tl.PropagateNan.ALL)
    power = tl.where(mask, tl.exp2(y), 0.0)
    if SUMS_ROWS:
        tl.store(row_sums, tl.sum(power, 1), mask=rows < row_end)
    if SUMS_COLS:
        tl.store(col_sums, tl.sum(power, 0), mask=mirrored)


@triton.jit
def store_tops_and_sums(
    dots,
    inside,
    vectors,
    data,
    CODE: tl.constexpr,
    AT: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    mirrored,
    row_tops,
    row_sums,
    col_tops,
    col_sums,
    SUMS_ROWS: tl.constexpr,
    SUMS_COLS: tl.constexpr,
):
    """The largest exponents of a tile's rows and columns, and sums of powers above them."""
    mask = included(inside, data, CODE, AT, rows, cols, row_end, col_end)
    y = affine(dots, vectors, data, 0.0, CODE, AT, rows, cols, row_end, col_end)
    # An infinite exponent is NaN, not a vanished or a dominant term.
    y = tl.where(mask, y + (y - y), float("-inf"))
    if SUMS_ROWS:
        top = tl.max(y, 1)
        base = tl.where(top == float("-inf"), 0.0, top)
        tl.store(row_tops, top, mask=rows < row_end)
        tl.store(row_sums, tl.sum(tl.exp2(y - base[:, None]), 1), mask=rows < row_end)
    if SUMS_COLS:
        top = tl.max(y, 0)
        base = tl.where(top == float("-inf"), 0.0, top)
        tl.store(col_tops, top, mask=mirrored)
        tl.store(col_sums, tl.sum(tl.exp2(y - base[None, :]), 0), mask=mirrored)


@triton.jit
def channel_weights(
    dots,
    inside,
    channels,
    gradients,
    data,
    shifts,
    CODE: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    SIDES: tl.constexpr,
    GENERAL: tl.constexpr,
):
    """G of a tile: sum over channels of 2^(y - shift_i) a_i + 2^(y - shift_j) b_j.

    ``gradients``: for each channel the shifts of rows, a, the shifts of columns, b.
    """
    weights = tl.zeros(dots.shape, dots.dtype)
    for c in tl.static_range(len(channels)):
        if SIDES[2 * c] or SIDES[2 * c + 1]:
            shift = tl.load(shifts + c) if not GENERAL else 0.0
            weights += channel_weight(
                dots, inside, channels[c], gradients[c], data, shift, CODE, CODE[c],
                rows, cols, row_end, col_end, SIDES[2 * c], SIDES[2 * c + 1], GENERAL,
            )  # fmt: skip
    return weights


@triton.jit
def channel_weight(
    dots,
    inside,
    vectors,
    own,
    data,
    shift,
    CODE: tl.constexpr,
    AT: tl.constexpr,
    rows,
    cols,
    row_end,
    col_end,
    FROM_ROWS: tl.constexpr,
    FROM_COLS: tl.constexpr,
    GENERAL: tl.constexpr,
):
    """One channel's share of G."""
    mask = included(inside, data, CODE, AT, rows, cols, row_end, col_end)
    y = affine(dots, vectors, data, shift, CODE, AT, rows, cols, row_end, col_end)
    if GENERAL:
        weight = tl.zeros(dots.shape, dots.dtype)
        if FROM_ROWS:
            a = tl.load(own[1] + rows, mask=rows < row_end, other=0.0)[:, None]
            top = tl.load(own[0] + rows, mask=rows < row_end, other=0.0)[:, None]
            weight += tl.where(mask & (a != 0), tl.exp2(y - top) * a, 0.0)
        if FROM_COLS:
            b = tl.load(own[3] + cols, mask=cols < col_end, other=0.0)[None, :]
            top = tl.load(own[2] + cols, mask=cols < col_end, other=0.0)[None, :]
            weight += tl.where(mask & (b != 0), tl.exp2(y - top) * b, 0.0)
    else:
        factor = side_factors(own[1], own[3], rows, cols, row_end, col_end, FROM_ROWS, FROM_COLS)
        weight = tl.where(mask, tl.exp2(y) * factor, 0.0)
    return weight


@triton.jit
def side_factors(
    of_rows,
    of_cols,
    rows,
    cols,
    row_end,
    col_end,
    FROM_ROWS: tl.constexpr,
    FROM_COLS: tl.constexpr,
):
    """a_i + b_j of those that there are."""
    if FROM_ROWS and FROM_COLS:
        a = tl.load(of_rows + rows, mask=rows < row_end, other=0.0)[:, None]
        b = tl.load(of_cols + cols, mask=cols < col_end, other=0.0)[None, :]
        factor = a + b
    elif FROM_ROWS:
        factor = tl.load(of_rows + rows, mask=rows < row_end, other=0.0)[:, None]
    else:
        factor = tl.load(of_cols + cols, mask=cols < col_end, other=0.0)[None, :]
    return factor
