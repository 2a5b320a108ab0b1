"""What the primitives reject, word for word: function, rule, values and remedy."""

from __future__ import annotations

import re
from typing import Any

import contrastile
import pytest
import torch
from contrastile.ops import gather_dot, log_sum_exp, merge_log_sum_exp, pair_sum
from contrastile.problem import (
    Channel,
    Equal,
    Index,
    InputError,
    Less,
    Overlap,
    Pairs,
    Phi,
    Term,
    Within,
)
from torch import Tensor

ROWS, COLS, SIZE = 6, 5, 4
META = torch.device("meta")

PRIMITIVES = {
    "log_sum_exp": lambda **given: log_sum_exp(**{**sides(), **given}),
    "pair_sum": lambda **given: pair_sum(**{**sides(), "terms": [Term(Phi.SOFTPLUS)], **given}),
}
each = pytest.mark.parametrize("name", PRIMITIVES)


def sides() -> dict[str, Tensor]:
    return {"query": torch.ones(ROWS, SIZE), "key": torch.ones(COLS, SIZE)}


def rejected(
    name: str, message: str, error: type[Exception] = contrastile.InputError, **given: Any
) -> None:
    with pytest.raises(error, match=f"^{re.escape(f'{name}: {message}')}"):
        PRIMITIVES[name](**given)


def reduction(name: str, **given: Any) -> dict[str, Any]:
    """One channel or term made of these."""
    if name == "log_sum_exp":
        return {"channels": [Channel(**given)]}
    return {"terms": [Term(Phi.SOFTPLUS, **given)]}


@each
def test_embeddings(name: str) -> None:
    rejected(name, "query must be a tensor, got list", TypeError, query=[1.0])
    rejected(name, "key must be [rows, embedding size], got (5,)", key=torch.ones(COLS))
    rejected(
        name, "query must be float32, float64, float16 or bfloat16", query=torch.ones(3, 4).int()
    )
    sizes = "query and key need the same embedding size, got query (6, 4) and key (5, 3)"
    rejected(name, sizes, key=torch.ones(COLS, 3))
    meta = "key is on the meta device, it has no values"
    rejected(name, meta, key=torch.ones(COLS, SIZE, device=META))


@each
def test_scale_and_biases(name: str) -> None:
    rejected(name, "scale must be a float or a tensor, got str", TypeError, scale="2")
    rejected(name, "scale must be a float or a tensor, got bool", TypeError, scale=True)
    rejected(name, "scale must be floating point, got torch.int64", scale=torch.tensor(2))
    shape = "scale must be a float, a 0-d tensor or one value a row (6,), got (5,)"
    rejected(name, shape, scale=torch.ones(COLS))
    where = "is on the meta device, it has no values"
    for value in (torch.ones((), device=META), torch.ones(ROWS, device=META)):
        rejected(name, f"scale {where}", scale=value)
    for side, length in (("row_bias", ROWS), ("col_bias", COLS)):
        rejected(name, f"{side} must be a tensor, got float", TypeError, **{side: 1.0})
        wrong = torch.ones(length + 1)
        rejected(name, f"{side} must have shape ({length},), got ({length + 1},)", **{side: wrong})
        integers = torch.ones(length, dtype=torch.int64)
        rejected(name, f"{side} must be floating point, got torch.int64", **{side: integers})
        rejected(name, f"{side} {where}", **{side: torch.ones(length, device=META)})


@each
def test_what_to_reduce(name: str) -> None:
    rejected(name, "nothing to reduce, ask for rows or columns", rows=False)
    plural = {"log_sum_exp": "channels", "pair_sum": "terms"}[name]
    one = reduction(name)[plural]
    for count in (0, 4):
        message = f"between 1 and 3 {plural}, got {count}"
        rejected(name, message, **{plural: one * count})


@pytest.mark.parametrize("wrong", [Term(Phi.IDENTITY), "everything", None, ~Index(torch.arange(6))])
def test_channels_are_channels(wrong: object) -> None:
    message = f"channels must be Channel, got {type(wrong).__name__}"
    rejected("log_sum_exp", message, TypeError, channels=[wrong])
    rejected("log_sum_exp", message, TypeError, channels=[Channel(), wrong])


@pytest.mark.parametrize("wrong", [Channel(), "everything", None, Phi.RELU])
def test_terms_are_terms(wrong: object) -> None:
    message = f"terms must be Term, got {type(wrong).__name__}"
    rejected("pair_sum", message, TypeError, terms=[wrong])
    rejected("pair_sum", message, TypeError, terms=[Term(Phi.RELU), wrong])


@each
def test_factors(name: str) -> None:
    rejected(name, "factor must not be 0", **reduction(name, factor=0.0))
    for value in (float("nan"), float("inf")):
        rejected(name, "factor must be a finite number", **reduction(name, factor=value))
    message = "factor must be a number, got str"
    rejected(name, message, TypeError, **reduction(name, factor="2"))


def test_phi() -> None:
    for value in ("softplus", 0, None):
        message = f"phi must be a Phi, got {value!r}"
        rejected("pair_sum", message, TypeError, terms=[Term(value)])


def test_thresholds_of_terms() -> None:
    for message, value in (
        ("threshold must have shape (6,), got (5,)", torch.ones(COLS)),
        ("threshold must be floating point, got torch.int64", torch.ones(ROWS).long()),
        ("terms[0].threshold is on the meta device", torch.ones(ROWS, device=META)),
    ):
        rejected("pair_sum", message, terms=[Term(Phi.RELU, threshold=value)])


@pytest.mark.parametrize(("side", "length"), [("row_log_weight", ROWS), ("col_log_weight", COLS)])
def test_log_weights(side: str, length: int) -> None:
    shape = f"{side} must have shape ({length},), got (7,)"
    rejected("log_sum_exp", shape, **reduction("log_sum_exp", **{side: torch.ones(7)}))
    for bad in (torch.inf, -torch.inf, torch.nan):
        weight = torch.zeros(length)
        weight[2] = bad
        message = f"{side} must be finite"
        rejected("log_sum_exp", message, **reduction("log_sum_exp", **{side: weight}))


def test_class_log_weights() -> None:
    ids = torch.zeros(ROWS, dtype=torch.int64), torch.zeros(COLS, dtype=torch.int64)
    for weight, message in (
        (float("inf"), "class log-weight must be a finite number, got inf"),
        (float("nan"), "class log-weight must be a finite number, got nan"),
        (1e31, "class log-weight must be a finite number in [-1e+30, 1e+30]"),
    ):
        channel = Channel(class_log_weights=((Equal(*ids), weight),))
        rejected("log_sum_exp", message, channels=[channel])
    channel = Channel(class_log_weights=((Equal(ids[1], ids[0]), 1.0),))
    message = "Equal.rows needs one entry a row, (6,), got (5,)"
    rejected("log_sum_exp", message, channels=[channel])


@each
def test_predicates(name: str) -> None:
    rows, cols = torch.zeros(ROWS, dtype=torch.int64), torch.zeros(COLS, dtype=torch.int64)

    def refused(message: str, pairs: Pairs) -> None:
        for wrapped in (pairs, ~pairs, pairs & Equal(rows, cols), Equal(rows, cols) | ~pairs):
            rejected(name, message, **reduction(name, pairs=wrapped))

    refused("Equal.rows needs one entry a row, (6,), got (5,)", Equal(cols, cols))
    refused("Equal.columns needs one entry a column, (5,), got (6,)", Equal(rows, rows))
    refused("Overlap.columns needs one entry a column, (5,), got (6,)", Overlap(rows, rows))
    refused("Index.columns needs one entry a row, (6,), got (5,)", Index(cols))
    remedy = "must be contiguous int64, got torch.int32; use .to(torch.int64).contiguous()"
    refused(f"Equal.rows {remedy}", Equal(rows.int(), cols))
    refused("Equal.rows must be contiguous int64", Equal(rows.repeat(2)[::2], cols))
    refused("Equal.columns is on the meta device, it has no values", Equal(rows, cols.to(META)))
    refused("Less.rows needs one entry a row, (6,), got (5,)", Less(cols, cols))
    refused("Less.columns must be real numbers, got torch.complex64", Less(rows, cols + 0j))
    width = "Within.width needs one entry a row, (6,), got (5,)"
    refused(width, Within(rows, cols, torch.ones(COLS)))
    refused("Within.columns needs one entry a column, (5,), got (6,)", Within(rows, rows, 1.0))


@each
def test_predicates_are_pairs(name: str) -> None:
    for wrong in ("diagonal", torch.ones(ROWS, COLS, dtype=torch.bool)):
        message = f"pairs must be Pairs, got {type(wrong).__name__}"
        rejected(name, message, TypeError, **reduction(name, pairs=wrong))


@each
def test_positives(name: str) -> None:
    for bad, got in (([0, 1, 2, 3, 4, 5], "0 to 5"), ([-2, 0, 0, 0, 0, 0], "-2 to 0")):
        message = f"positives must lie in [-1, 5), where -1 means none, got values from {got}"
        rejected(name, message, positives=torch.tensor(bad))
    rejected(name, "positives must have shape (6,), got (5,)", positives=torch.arange(5))
    rejected(name, "positives must be integers, got torch.float32", positives=torch.ones(ROWS))


@each
def test_ranks(name: str) -> None:
    rejected(name, "ranks need positives or row_thresholds", ranks=True)
    plain = "ranks compare plain scores, so the first channel must have a positive factor"
    theta = torch.zeros(ROWS)
    negative = reduction(name, factor=-1.0)
    rejected(name, plain, ranks=True, row_thresholds=theta, **negative)
    columns = "ranks of columns need positives on the diagonal, or col_thresholds"
    targets = torch.zeros(ROWS, dtype=torch.int64)
    rejected(name, columns, ranks=True, positives=targets, columns=True)
    rejected(name, columns, ranks=True, row_thresholds=theta, columns=True)
    length = "row_thresholds must have shape (6,), got (5,)"
    rejected(name, length, ranks=True, row_thresholds=torch.zeros(COLS))
    length = "col_thresholds must have shape (5,), got (6,)"
    rejected(name, length, ranks=True, row_thresholds=theta, col_thresholds=theta, columns=True)


def test_ranks_of_weighted_scores() -> None:
    message = "ranks compare plain scores"
    targets = torch.zeros(ROWS, dtype=torch.int64)
    same = Equal(targets, torch.zeros(COLS, dtype=torch.int64))
    for weights in (
        {"row_log_weight": torch.zeros(ROWS)},
        {"col_log_weight": torch.zeros(COLS)},
        {"class_log_weights": ((same, 1.0),)},
    ):
        channel = reduction("log_sum_exp", **weights)
        rejected("log_sum_exp", message, ranks=True, positives=targets, **channel)


@each
def test_backend_and_workspace(name: str) -> None:
    for value in ("gpu", "", None, 3):
        message = f"backend must be one of auto, cpu, triton, cuda, reference, got {value!r}"
        rejected(name, message, backend=value)
    on_meta = {side: tensor.to(META) for side, tensor in sides().items()}
    rejected(name, "query is on the meta device, it has no values to compute with", **on_meta)
    rejected(name, "workspace (bytes) must be a finite number in [1, ", workspace=0)
    rejected(name, "workspace (bytes) must be a number, got str", TypeError, workspace="1")


@each
def test_no_backend_lists_every_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from contrastile.backends import AUTO

    for backend in AUTO:
        monkeypatch.setattr(type(backend), "available", lambda self: f"{self.name} is asleep")
    listed = "; ".join(f"{backend.name}: {backend.name} is asleep" for backend in AUTO)
    rejected(name, f"no backend can compute this; {listed}")


# gather_dot and merge_log_sum_exp.


def gather_rejected(
    message: str, error: type[Exception] = contrastile.InputError, **given: Any
) -> None:
    with pytest.raises(error, match=f"^{re.escape(f'gather_dot: {message}')}"):
        gather_dot(**{**sides(), "columns": torch.zeros(ROWS, dtype=torch.int64), **given})


def test_gather_dot() -> None:
    gather_rejected("query must be a tensor, got int", TypeError, query=1)
    gather_rejected("query and key need the same embedding size", key=torch.ones(COLS, 3))
    gather_rejected("columns must be a tensor, got list", TypeError, columns=[0] * ROWS)
    gather_rejected("columns must be integers", columns=torch.zeros(ROWS))
    gather_rejected("columns must have shape (6,), got (5,)", columns=torch.arange(5))
    gather_rejected(
        "columns must lie in [-1, 5), where -1 means none, got values from 0 to 5",
        columns=torch.arange(ROWS),
    )


def test_gather_dot_of_a_list() -> None:
    starts = torch.tensor([0, 1, 1, 2, 2, 2, 3])
    columns = torch.tensor([0, 1, 2])
    gather_rejected(
        "row_starts must have shape (7,), got (6,)", columns=columns, row_starts=starts[:-1]
    )
    for bad in ([1, 1, 1, 2, 2, 2, 3], [0, 2, 1, 2, 2, 2, 3], [0, 1, 1, 2, 2, 2, 2]):
        gather_rejected(
            "row_starts must rise from 0 to len(columns) = 3, got (7,) from",
            columns=columns,
            row_starts=torch.tensor(bad),
        )
    bound = "columns must lie in [-1, 5)"
    gather_rejected(bound, columns=torch.tensor([0, 1, 5]), row_starts=starts)
    gather_rejected("columns must be a tensor, got int", TypeError, columns=3, row_starts=starts)


def test_merge_log_sum_exp() -> None:
    for message, error, blocks in (
        ("needs at least one block", contrastile.InputError, ()),
        ("block must be a tensor, got str", TypeError, ("a",)),
        ("block must be a tensor, got list", TypeError, (torch.ones(2), [1.0, 2.0])),
        (
            "blocks need one shape, got (2,) and (3,)",
            contrastile.InputError,
            (torch.ones(2), torch.ones(3)),
        ),
    ):
        with pytest.raises(error, match=f"^{re.escape(f'merge_log_sum_exp: {message}')}"):
            merge_log_sum_exp(*blocks)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_eight_bit_embeddings_are_refused(dtype: torch.dtype) -> None:
    x = torch.zeros(4, 16).to(dtype)
    with pytest.raises(InputError, match=r"float16 or bfloat16, got torch\.float8"):
        log_sum_exp(x, x, backend="triton")
