"""A channel or a pair sum as kernels take it, and from dot products to the argument of its map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import triton
import triton.language as tl

from .place import of_cols, of_rows
from .predicates import Predicate, kept


@dataclass(frozen=True, eq=False)
class Form:
    """What is known of a reduction when kernels are compiled: which function is summed, the one
    whose values are its weights, one that gives both where that takes less (None: it does not), the
    predicate on pairs that count (None: all), and those of its classes.
    """

    map: Any
    slope: Any
    both: Any
    pairs: Predicate | None
    classes: tuple[Predicate, ...]

    def __repr__(self) -> str:
        """As Predicate has it: what compiled kernels are kept by."""
        functions = (self.map, self.slope, self.both)
        keys = [None if function is None else function.cache_key for function in functions]
        return f"Form({keys}, {self.pairs}, {self.classes})"


class Vectors(NamedTuple):
    """The numbers of a reduction; what is absent is an empty tuple.

    ``scale`` or ``row_scale``: a coefficient's high and low part, one for all rows or one each;
    ``row_offset``, ``col_offset``, ``weights`` (of classes): one vector.
    """

    scale: Any
    row_scale: Any
    row_offset: Any
    col_offset: Any
    weights: Any


class Split(NamedTuple):
    """A scale that only the device knows, fp64, in a tuple that is empty without; of each reduction
    three numbers whose sum it is multiplied by, and where high and low part of it go.
    """

    scale: Any
    factors: Any
    parts: Any


@triton.jit
def split_scale(split):
    """Fill in the coefficients. All programs write the same."""
    for r in tl.static_range(len(split.parts)):
        factor = tl.cast(split.factors[r][0], tl.float64)
        factor += tl.cast(split.factors[r][1], tl.float64)
        factor += tl.cast(split.factors[r][2], tl.float64)
        exact = tl.load(split.scale[0]) * factor
        high = exact.to(split.parts[r][0].dtype.element_ty)
        tl.store(split.parts[r][0], high)
        tl.store(split.parts[r][1], (exact - high.to(tl.float64)).to(high.dtype))


@triton.jit
def argument(dots, vectors, shift, place, FORM: tl.constexpr):
    """dots (hi + lo) + row offset + column offset + class weights - shift.

    The shift joins the offsets: what is large in both is gone before dots are added.
    """
    if len(vectors.row_scale) == 2:
        high = of_rows(vectors.row_scale[0], place)
        low = of_rows(vectors.row_scale[1], place)
    else:
        high = tl.load(vectors.scale[0])
        low = tl.load(vectors.scale[1])
    offset = tl.zeros([1, 1], dots.dtype) - shift
    if len(vectors.row_offset) == 1:
        offset = offset + of_rows(vectors.row_offset[0], place)
    if len(vectors.col_offset) == 1:
        offset = offset + of_cols(vectors.col_offset[0], place)
    value = tl.fma(dots, high, tl.fma(dots, low, offset))
    for i in tl.static_range(len(FORM.classes)):
        value = value + class_weight(vectors.weights[0], place, FORM, i)
    return value


@triton.jit
def class_weight(weights, place, FORM: tl.constexpr, CLASS: tl.constexpr):
    """The log-weight of a class where a pair is in it, else 0."""
    MEMBERS: tl.constexpr = FORM.classes[CLASS]
    weight = tl.load(weights + CLASS)
    return tl.where(kept(MEMBERS, place), weight, 0.0)


@triton.jit
def included(place, FORM: tl.constexpr):
    """The pairs of a tile that the reduction keeps."""
    PAIRS: tl.constexpr = FORM.pairs
    inside = place.inside
    if PAIRS is not None:
        inside = inside & kept(PAIRS, place)
    return inside


@triton.jit
def map_and_slope(x, FORM: tl.constexpr):
    """The value that is summed, and its slope."""
    BOTH: tl.constexpr = FORM.both
    if BOTH is None:
        value, rate = FORM.map(x), FORM.slope(x)
    else:
        value, rate = FORM.both(x)
    return value, rate
