"""What the losses reject, word for word: function, rule, values and remedy."""

from __future__ import annotations

import pytest
import torch
from cases import TWO_VIEWS
from helpers import Arguments
from rejections import (
    ROWS,
    SIZE,
    each_loss,
    embeddings_of,
    minimal,
    rejected,
    rejected_by_engine,
    with_partners,
    with_two_sides,
)
from torch import Tensor

# Embeddings.


@each_loss
def test_embeddings_are_matrices(loss: str) -> None:
    for name in embeddings_of(loss):
        for shape in ((ROWS,), (2, 3, SIZE), ()):
            rejected(
                loss,
                f"{name} must be [rows, embedding size], got {shape}; "
                "flatten the leading dimensions first",
                **{name: torch.ones(shape)},
            )


@each_loss
def test_embeddings_are_floating_point(loss: str) -> None:
    for name in embeddings_of(loss):
        for dtype in (torch.int64, torch.complex64, torch.bool):
            rejected(
                loss,
                f"{name} must be float32, float64, float16 or bfloat16, got {dtype}",
                **{name: torch.ones(ROWS, SIZE, dtype=dtype)},
            )


@each_loss
def test_embeddings_are_tensors(loss: str) -> None:
    for name in embeddings_of(loss):
        for value in ([[1.0, 2.0]], None, "z"):
            message = f"{name} must be a tensor, got {type(value).__name__}"
            rejected(loss, message, TypeError, **{name: value})


@with_two_sides
def test_embedding_sizes_agree(loss: str) -> None:
    first, second = embeddings_of(loss)
    rejected(
        loss,
        f"{first} and {second} need the same embedding size, "
        f"got {first} (6, 4) and {second} (6, 5)",
        **{second: torch.ones(ROWS, 5)},
    )


@with_partners
def test_rows_agree(loss: str) -> None:
    first, second = embeddings_of(loss)
    rejected(
        loss,
        f"row i of {first} belongs to row i of {second}, so both need the same number of rows, "
        f"got {first} (6, 4) and {second} (5, 4)",
        **{second: torch.ones(5, SIZE)},
    )


@with_two_sides
def test_embeddings_are_on_one_device(loss: str) -> None:
    first, second = embeddings_of(loss)
    message = f"{first} and {second} must be on one device, got {first} on cpu and {second} on meta"
    rejected(loss, message, **{second: torch.ones(ROWS, SIZE, device="meta")})


@each_loss
def test_meta_tensors_have_no_loss(loss: str) -> None:
    on_meta = {n: v.to("meta") for n, v in minimal(loss).items() if isinstance(v, Tensor)}
    rule = r"\w+ is on the meta device, it has no values to compute with"
    rejected_by_engine(loss, rule, **on_meta)
    rejected_by_engine(loss, rule, backend="cpu", **on_meta)


# The scale and the bias.


@each_loss
def test_exactly_one_of_temperature_and_logit_scale(loss: str) -> None:
    rule = "give exactly one of temperature and logit_scale, got"
    remedy = "; temperature=0.07 is the usual start"
    rejected(loss, f"{rule} neither{remedy}", temperature=None)
    rejected(loss, f"{rule} both{remedy}", logit_scale=2.0)


@each_loss
@pytest.mark.parametrize("value", [0.0, -0.1, 0, float("nan")])
def test_temperature_is_positive(loss: str, value: float) -> None:
    rejected(loss, f"temperature must be positive, got {value}", temperature=value)


@each_loss
@pytest.mark.parametrize("name", ["temperature", "logit_scale"])
def test_scales_are_finite_numbers(loss: str, name: str) -> None:
    for value in (float("inf"), float("nan")) if name == "logit_scale" else (float("inf"),):
        rejected(
            loss,
            f"{name} must be a finite number in",
            **{"temperature": None, name: value},
        )
    for value in ("0.1", True, [0.1]):
        rejected(
            loss,
            f"{name} must be a float or a tensor, got {type(value).__name__}",
            TypeError,
            **{"temperature": None, name: value},
        )


@each_loss
@pytest.mark.parametrize("name", ["temperature", "logit_scale"])
def test_scale_tensors_fit(loss: str, name: str) -> None:
    def changes(value: Tensor) -> Arguments:
        return {"temperature": None, name: value}

    integer = f"{name} must be floating point, got torch.int64"
    rejected(loss, integer, **changes(torch.tensor(2)))
    for shape in ((2, 2), (5,), (ROWS, 1)):
        rejected(
            loss,
            f"{name} must be a float, a 0-d tensor or one value a row (6,), got {shape}",
            **changes(torch.ones(shape)),
        )
    where = f"{name} must be on the embeddings' device cpu, got meta"
    rejected(loss, where, **changes(torch.ones((), device="meta")))


@pytest.mark.parametrize("loss", [*TWO_VIEWS, "supcon_loss"])
def test_one_scale_where_rows_are_columns(loss: str) -> None:
    rows = ROWS
    rejected(
        loss,
        f"each item is a row and a column, so the scale must be one number, got ({rows},)",
        temperature=torch.ones(rows),
    )


@each_loss
def test_bias_is_a_number(loss: str) -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        rejected(loss, "logit_bias must be a finite number in", logit_bias=value)
    for value in ("1", True):
        message = f"logit_bias must be a number, got {type(value).__name__}"
        rejected(loss, message, TypeError, logit_bias=value)


@each_loss
def test_bias_tensors_fit(loss: str) -> None:
    rule = "logit_bias must be floating point, got torch.int64"
    rejected(loss, rule, logit_bias=torch.tensor(1))
    device = "logit_bias must be on the embeddings' device cpu, got meta"
    rejected(loss, device, logit_bias=torch.ones((), device="meta"))
    rule = "logit_bias must be a float or a 0-d tensor, got (4,)"
    if loss == "info_nce":
        rule = "logit_bias must have shape (6,), got (4,)"
    rejected(loss, rule, logit_bias=torch.ones(4))
