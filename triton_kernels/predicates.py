"""Predicates on pairs: device functions that are composed when Triton compiles.

A :class:`Predicate` is known at compile time: a function below and what it is applied to, numbers
of what stands in a place's ``data`` or other predicates. A new kind is one function here and one
entry in the encoder's table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from .place import of_cols, of_plane, of_rows


@dataclass(frozen=True, eq=False)
class Predicate:
    """Which pairs of a tile ``holds(self, place)`` is true of."""

    holds: Any
    operands: tuple[Any, ...]

    def __repr__(self) -> str:
        """Triton keeps compiled kernels by this text: it differs where a function's source does."""
        return f"Predicate({self.holds.cache_key}, {self.operands})"


@triton.jit
def kept(PREDICATE: tl.constexpr, place):
    """The predicate on a tile, true or false for each pair."""
    return PREDICATE.holds(PREDICATE, place)


@triton.jit
def index(OWN: tl.constexpr, place):
    """data[slot][i] == j"""
    # Compared as 32-bit numbers, as there are no more columns: one instruction a score, not two.
    return of_rows(place.data[OWN.operands[0]], place).to(tl.int32) == place.cols[None, :]


@triton.jit
def equal(OWN: tl.constexpr, place):
    """data[slot][i] == data[slot][j]"""
    row_ids, col_ids = place.data[OWN.operands[0]], place.data[OWN.operands[1]]
    return of_rows(row_ids, place) == of_cols(col_ids, place)


@triton.jit
def overlap(OWN: tl.constexpr, place):
    """data[slot][i] & data[slot][j] != 0"""
    row_masks, col_masks = place.data[OWN.operands[0]], place.data[OWN.operands[1]]
    return (of_rows(row_masks, place) & of_cols(col_masks, place)) != 0


@triton.jit
def less(OWN: tl.constexpr, place):
    """data[slot][i] < data[slot][j]"""
    rows, cols = place.data[OWN.operands[0]], place.data[OWN.operands[1]]
    return of_rows(rows, place) < of_cols(cols, place)


@triton.jit
def at_most(OWN: tl.constexpr, place):
    """data[slot][i] <= data[slot][j]"""
    rows, cols = place.data[OWN.operands[0]], place.data[OWN.operands[1]]
    return of_rows(rows, place) <= of_cols(cols, place)


@triton.jit
def within(OWN: tl.constexpr, place):
    """|data[slot][i, 0] - data[slot][j]| < data[slot][i, 1]"""
    rows, cols = place.data[OWN.operands[0]], place.data[OWN.operands[1]]
    there = place.rows < place.row_end
    centre = tl.load(rows + 2 * place.rows, mask=there, other=0)[:, None]
    width = tl.load(rows + 2 * place.rows + 1, mask=there, other=0)[:, None]
    return tl.abs(centre - of_cols(cols, place)) < width


@triton.jit
def row_above(OWN: tl.constexpr, place):
    """V_plane[i, j] > data[slot][i], of the numbers that both passes find in memory"""
    limits, plane = place.data[OWN.operands[0]], place.data[OWN.operands[1]]
    return of_plane(plane, place) > of_rows(limits, place)


@triton.jit
def col_above(OWN: tl.constexpr, place):
    """V_plane[i, j] > data[slot][j]"""
    limits, plane = place.data[OWN.operands[0]], place.data[OWN.operands[1]]
    return of_plane(plane, place) > of_cols(limits, place)


@triton.jit
def negation(OWN: tl.constexpr, place):
    """Where the operand does not hold."""
    OPERAND: tl.constexpr = OWN.operands[0]
    return kept(OPERAND, place) == 0


@triton.jit
def conjunction(OWN: tl.constexpr, place):
    """Where both operands hold."""
    LEFT: tl.constexpr = OWN.operands[0]
    RIGHT: tl.constexpr = OWN.operands[1]
    return kept(LEFT, place) & kept(RIGHT, place)


@triton.jit
def disjunction(OWN: tl.constexpr, place):
    """Where either operand holds."""
    LEFT: tl.constexpr = OWN.operands[0]
    RIGHT: tl.constexpr = OWN.operands[1]
    return kept(LEFT, place) | kept(RIGHT, place)
