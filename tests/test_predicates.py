"""Which pairs count: every predicate and its compositions, in both primitives, on every engine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contrastile.backends.gpu import forms
from contrastile.backends.predicates import mask, others
from contrastile.engine.plan import Block
from contrastile.ops import log_sum_exp, pair_sum
from contrastile.problem import (
    AtMost,
    Channel,
    Equal,
    Index,
    Less,
    Overlap,
    Pairs,
    Phi,
    Term,
    Within,
)
from contrastile.problem.part import Part
from contrastile.problem.spec import Slots
from dense import (
    DenseChannel,
    DenseTerm,
    compare,
    evaluate_all,
    inputs,
    named,
    reduced,
)
from helpers import Arguments, Results, assert_results_close, cast, generator
from hypothesis import given, strategies
from selected import rest_in_gates
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ROWS, COLS = 23, 31
Kind = tuple[Pairs, Tensor]
SPAN = torch.arange(COLS)
CHAIN = range(20)
INT64 = torch.iinfo(torch.int64)


def integers(low: int, high: int, length: int, seed: int) -> Tensor:
    return torch.randint(low, high, (length,), generator=generator(seed))


def index(seed: int = 0) -> Kind:
    columns = integers(-1, COLS, ROWS, seed)
    return Index(columns), columns[:, None] == SPAN


def nowhere() -> Kind:
    return Index(torch.full((ROWS,), -1)), torch.zeros(ROWS, COLS, dtype=torch.bool)


def diagonal(offset: int) -> Kind:
    return Index.diagonal(ROWS, offset), SPAN - torch.arange(ROWS)[:, None] == offset


def equal(seed: int = 0, values: int = 4) -> Kind:
    rows, cols = integers(0, values, ROWS, seed), integers(0, values, COLS, seed + 1)
    return Equal(rows, cols), rows[:, None] == cols


def equal_at_the_ends() -> Kind:
    """Ids that differ only in the lowest or the highest bit of 64."""
    pool = torch.tensor(
        [INT64.min, INT64.min + 1, -1, 0, 2**53, 2**53 + 1, INT64.max - 1, INT64.max]
    )
    rows, cols = pool[integers(0, 8, ROWS, 1)], pool[integers(0, 8, COLS, 2)]
    return Equal(rows, cols), (rows[:, None] - cols) == 0


def overlap(seed: int = 0) -> Kind:
    rows, cols = integers(0, 2**5, ROWS, seed), integers(0, 2**5, COLS, seed + 1)
    return Overlap(rows, cols), shared_bits(rows, cols) > 0


def overlap_of_the_sign_bit() -> Kind:
    pool = torch.tensor([0, 1, INT64.min, -1, 1 << 62, 1 << 33])
    rows, cols = pool[integers(0, 6, ROWS, 1)], pool[integers(0, 6, COLS, 2)]
    return Overlap(rows, cols), shared_bits(rows, cols) > 0


def shared_bits(rows: Tensor, cols: Tensor) -> Tensor:
    """Number of bits two masks share, bit by bit."""
    bits = [((rows[:, None] >> b) % 2 * ((cols >> b) % 2)).abs() for b in range(64)]
    return torch.stack(bits).sum(0)


NUMBERS = torch.tensor([-torch.inf, -1.0, -0.0, 0.0, 2.0, torch.inf, torch.nan])


def numbers(length: int, seed: int) -> Tensor:
    return NUMBERS[integers(0, len(NUMBERS), length, seed)]


def less(seed: int = 0) -> Kind:
    rows, cols = numbers(ROWS, seed), numbers(COLS, seed + 1).double()
    return Less(rows, cols), rows[:, None] < cols


def less_in_the_last_bit() -> Kind:
    """Numbers that are one in fp32."""
    rows, cols = integers(-4, 4, ROWS, 1), integers(-4, 4, COLS, 2)
    apart = rows[:, None] < cols
    return Less(1 + rows.double() * 2.0**-52, 1 + cols.double() * 2.0**-52), apart


def at_most(seed: int = 0) -> Kind:
    rows, cols = integers(-2, 3, ROWS, seed), numbers(COLS, seed + 1)
    return AtMost(rows, cols), rows[:, None] <= cols


def within(width: float | Tensor, seed: int = 0) -> Kind:
    rows, cols = numbers(ROWS, seed), numbers(COLS, seed + 1).half()
    reach = width[:, None] if isinstance(width, Tensor) else width
    return Within(rows, cols, width), (rows[:, None] - cols).abs() < reach


def negation(one: Kind) -> Kind:
    return ~one[0], ~one[1]


def conjunction(one: Kind, other: Kind) -> Kind:
    return one[0] & other[0], one[1] & other[1]


def disjunction(one: Kind, other: Kind) -> Kind:
    return one[0] | other[0], one[1] | other[1]


PREDICATES: dict[str, Callable[[], Kind]] = {
    "index": index,
    "index, nowhere": nowhere,
    "not index": lambda: negation(index()),
    "not index, nowhere": lambda: negation(nowhere()),
    "diagonal": lambda: diagonal(0),
    "not diagonal + 5": lambda: negation(diagonal(5)),
    "not diagonal, beyond the last column": lambda: negation(diagonal(12)),
    "equal": equal,
    "not equal": lambda: negation(equal()),
    "equal, never": lambda: equal(values=10**6),
    "equal at the ends of int64": equal_at_the_ends,
    "overlap": overlap,
    "not overlap": lambda: negation(overlap()),
    "overlap of the sign bit": overlap_of_the_sign_bit,
    "less": less,
    "not less": lambda: negation(less()),
    "less in the last bit": less_in_the_last_bit,
    "at most": at_most,
    "not at most": lambda: negation(at_most()),
    "within one number": lambda: within(2.0),
    "within a number a row": lambda: within(numbers(ROWS, 7)),
    "not within infinity": lambda: negation(within(torch.inf)),
    "numbers and an id": lambda: disjunction(
        conjunction(less(), negation(within(1.5, 3))), conjunction(at_most(5), equal())
    ),
    "two holes": lambda: conjunction(negation(index(0)), negation(index(1))),
    "three holes and an id": lambda: conjunction(
        conjunction(negation(index(0)), negation(index(1))),
        conjunction(negation(equal()), negation(index(2))),
    ),
    "hole or id": lambda: disjunction(negation(index(0)), equal()),
    "hole within not": lambda: negation(conjunction(negation(index(0)), equal())),
    "several id columns": lambda: conjunction(
        conjunction(equal(0), negation(equal(10))), disjunction(equal(20), overlap(3))
    ),
    "deep": lambda: disjunction(
        conjunction(equal(0), disjunction(overlap(1), conjunction(index(3), equal(5)))),
        negation(disjunction(equal(7), conjunction(overlap(2), negation(index(4))))),
    ),
    "not not": lambda: negation(negation(equal())),
    "leaning left": lambda: functools.reduce(
        lambda kind, i: disjunction(kind, index(i)), CHAIN, nowhere()
    ),
    "leaning right": lambda: functools.reduce(
        lambda kind, i: disjunction(index(i), kind), CHAIN, nowhere()
    ),
}


@pytest.mark.parametrize("name", PREDICATES)
def test_kept_pairs_of_a_log_sum_exp(name: str, engine: dict[str, Any]) -> None:
    pairs, kept = PREDICATES[name]()
    compare(
        lambda given: named(
            log_sum_exp(**given, channels=[Channel(pairs), Channel(~pairs)], columns=True, **engine)
        ),
        lambda given: reduced(given, [DenseChannel(kept), DenseChannel(~kept)], columns=True),
        inputs(ROWS, COLS, scale="0-d"),
    )


@pytest.mark.parametrize("name", PREDICATES)
def test_kept_pairs_of_a_pair_sum(name: str, engine: dict[str, Any]) -> None:
    pairs, kept = PREDICATES[name]()
    terms = [Term(Phi.SQUARE, pairs), Term(Phi.SOFTPLUS, ~pairs, factor=-1.0)]
    dense = [DenseTerm("SQUARE", kept), DenseTerm("SOFTPLUS", ~kept, -1.0)]
    compare(
        lambda given: named(pair_sum(**given, terms=terms, columns=True, **engine)),
        lambda given: reduced(given, dense, columns=True),
        inputs(ROWS, COLS, scale="0-d"),
    )


@pytest.mark.parametrize("name", PREDICATES)
def test_classes_of_a_log_weight(name: str, engine: dict[str, Any]) -> None:
    pairs, mask = PREDICATES[name]()
    classes, dense = ((pairs, 1.5), (~pairs, -0.5)), [(mask, 1.5), (~mask, -0.5)]
    everything = torch.ones(ROWS, COLS, dtype=torch.bool)
    compare(
        lambda given: named(
            log_sum_exp(
                **given, channels=[Channel(class_log_weights=classes)], columns=True, **engine
            )
        ),
        lambda given: reduced(
            given, [DenseChannel(everything, class_log_weights=dense)], columns=True
        ),
        inputs(ROWS, COLS, scale="0-d"),
    )


# Of the gradients' largest entry; stats are fp32 in every dtype.
GRADIENTS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
STATS = 1e-5


def assert_close_to_fp64(
    ours: Callable[[Arguments], Results],
    dense: Callable[[Arguments], Results],
    dtype: torch.dtype,
) -> None:
    """Outputs and gradients at ``dtype`` are those of fp64 on the very same numbers."""
    low = cast(inputs(ROWS, COLS), dtype)
    got, exact = evaluate_all(ours, low), evaluate_all(dense, cast(low, torch.float64))
    for name, value in exact.items():
        empty = torch.isneginf(value)
        assert torch.equal(torch.isneginf(got[name]), empty), name
        rtol = GRADIENTS[dtype] if name.startswith("d ") else STATS
        kept = {name: got[name].double().masked_fill(empty, 0.0)}
        assert_results_close(kept, {name: value.masked_fill(empty, 0.0)}, rtol, atol=1e-6)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        pytest.param(torch.float16, marks=pytest.mark.gates),
        pytest.param(torch.float32, marks=pytest.mark.gates),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", rest_in_gates(PREDICATES, [*PREDICATES][::3]))
def test_the_kernels_of_a_gpu_at_lower_precision(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By fixed shifts first, as large problems are computed."""
    monkeypatch.setattr(forms, "SMALL", 0)
    pairs, kept = PREDICATES[name]()
    channels = [Channel(pairs), Channel(~pairs)]
    assert_close_to_fp64(
        lambda given: named(
            log_sum_exp(**given, channels=channels, columns=True, backend="triton")
        ),
        lambda given: reduced(given, [DenseChannel(kept), DenseChannel(~kept)], columns=True),
        dtype,
    )
    assert_close_to_fp64(
        lambda given: named(
            pair_sum(**given, terms=[Term(Phi.SOFTPLUS, pairs)], columns=True, backend="triton")
        ),
        lambda given: reduced(given, [DenseTerm("SOFTPLUS", kept)], columns=True),
        dtype,
    )


@pytest.mark.parametrize("name", PREDICATES)
def test_block_is_the_dense_predicate(name: str) -> None:
    pairs, dense = PREDICATES[name]()
    slots = Slots()
    program = tuple([(int(op), slots.of(a), slots.of(b)) for op, a, b in pairs.program()])
    for rows, cols in ((slice(0, ROWS), slice(0, COLS)), (slice(4, 9), slice(30, 31))):
        block = Block(rows, cols, mirrored=False)
        kept, rest = (made(program, slots.tensors, block) for made in (mask, others))
        assert torch.equal(kept.expand(block.shape), dense[rows, cols])
        assert torch.equal(rest.expand(block.shape), ~dense[rows, cols])


def predicates() -> strategies.SearchStrategy[Kind]:
    """Any predicate of a few leaves."""
    leaves = strategies.one_of(
        strategies.builds(index, strategies.integers(0, 5)),
        strategies.builds(equal, strategies.integers(0, 5)),
        strategies.builds(overlap, strategies.integers(0, 5)),
        strategies.builds(less, strategies.integers(0, 5)),
        strategies.builds(at_most, strategies.integers(0, 5)),
        strategies.builds(within, strategies.sampled_from([0.5, 3.0]), strategies.integers(0, 5)),
        strategies.builds(diagonal, strategies.integers(0, 9)),
    )
    return strategies.recursive(
        leaves,
        lambda inner: strategies.one_of(
            strategies.builds(negation, inner),
            strategies.builds(conjunction, inner, inner),
            strategies.builds(disjunction, inner, inner),
        ),
        max_leaves=12,
    )


@given(predicates())
def test_any_composition(backend: str, kind: Kind) -> None:
    pairs, kept = kind
    compare(
        lambda given: named(
            log_sum_exp(**given, channels=[Channel(pairs)], columns=True, backend=backend)
        ),
        lambda given: reduced(given, [DenseChannel(kept)], columns=True),
        inputs(ROWS, COLS),
    )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_pair_left_out_contributes_exactly_nothing(bad: float, engine: dict[str, Any]) -> None:
    """Not even NaN or infinity: a row that keeps out all bad columns never sees them."""
    arguments = inputs(ROWS, COLS)
    key = arguments["key"].detach().clone()
    ids = torch.zeros(COLS, dtype=torch.int64)
    ids[[3, 17]] = 1
    key[ids == 1] = bad
    rows = torch.zeros(ROWS, dtype=torch.int64)
    query = arguments["query"].detach().clone().requires_grad_()
    channel, term = Channel(Equal(rows, ids)), Term(Phi.SOFTPLUS, Equal(rows, ids))
    clean = query @ key[ids == 0].T * 1.7
    for stats, expected in (
        (log_sum_exp(query, key, scale=1.7, channels=[channel], **engine), clean.logsumexp(1)),
        (
            pair_sum(query, key, scale=1.7, terms=[term], **engine),
            torch.nn.functional.softplus(clean).sum(1),
        ),
    ):
        torch.testing.assert_close(stats.rows[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_bad_kept_pair_shows(dtype: torch.dtype, bad: float, engine: dict[str, Any]) -> None:
    query, key = torch.ones(9, 4, dtype=dtype), torch.ones(13, 4, dtype=dtype)
    key[11, 2] = bad
    stats = log_sum_exp(query, key, columns=True, **engine)
    assert stats.rows[0].isnan().all() and stats.columns[0][11].isnan()
    assert stats.columns[0][:11].isfinite().all()


# Descriptions.


def dense_of(pairs: Pairs, rows: int, cols: int) -> Tensor:
    """The predicate of the plain torch pass, on all pairs."""
    slots = Slots()
    program = tuple([(int(op), slots.of(a), slots.of(b)) for op, a, b in pairs.program()])
    block = Block(slice(0, rows), slice(0, cols), mirrored=False)
    return mask(program, slots.tensors, block).expand(block.shape)


@pytest.mark.parametrize("name", PREDICATES)
def test_some_rows_and_columns(name: str) -> None:
    pairs, kept = PREDICATES[name]()
    rows, cols = slice(3, 11), slice(5, 29)
    among = pairs.among(Part(rows, cols, torch.device("cpu")))
    assert torch.equal(dense_of(among, 8, 24), kept[rows, cols])
