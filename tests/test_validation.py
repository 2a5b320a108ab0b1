"""What the losses reject, word for word: function, rule, values and remedy."""

from __future__ import annotations

import contrastile.functional as losses
import pytest
import torch
from cases import TWO_VIEWS
from helpers import SELF_MODE, Arguments
from rejections import (
    PARTNERS,
    ROWS,
    SIZE,
    each_loss,
    embeddings_of,
    meta_as_a_device,
    minimal,
    rejected,
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
                f"{name} must be [rows, embedding size], got {shape}",
                **{name: torch.ones(shape)},
            )
        remedy = f"{name} must be [rows, embedding size], got (4,); one vector is a row, "
        rejected(loss, f"{remedy}{name}.unsqueeze(0)", **{name: torch.ones(SIZE)})


FLATTENED = "{name}.flatten(0, -2) makes a row of every vector, and of the rows of one item "
SEVERAL = {
    "info_nce": f"{FLATTENED}negatives of each other; query_ids= and key_ids= leave those out, ",
    "supcon_loss": "use z.flatten(0, 1) with labels.repeat_interleave(3)",
    "multi_positive_nce": "use {name}.flatten(0, 1) with {name}_ids.repeat_interleave(3)",
    **dict.fromkeys(TWO_VIEWS, "two views of each item are two arguments, z0 and z1; of more "),
    **dict.fromkeys(
        (name for name in PARTNERS if name not in TWO_VIEWS),
        f"{FLATTENED}negatives of each other; ids= leaves those out, multi_positive_nce makes ",
    ),
}


@each_loss
def test_several_vectors_an_item_are_another_loss(loss: str) -> None:
    """What flattening means depends on the loss, and so does what to call instead."""
    for name in embeddings_of(loss):
        rule = f"{name} must be [rows, embedding size], got (6, 3, 4); "
        remedy = SEVERAL[loss].format(name=name)
        rejected(loss, rule + remedy, **{name: torch.ones(ROWS, 3, SIZE)})


@pytest.mark.parametrize(
    ("loss", "name"), [("info_nce", "negatives"), ("qwen3_loss", "hard_negatives")]
)
def test_negatives_of_each_query(loss: str, name: str) -> None:
    """As many sets of them as queries, of their size, and numbers."""
    for wrong in (torch.ones(ROWS + 1, 3, SIZE), torch.ones(ROWS, 3, SIZE + 1)):
        rejected(
            loss,
            f"{name} of each row's own must be floating point [6, K, 4], got "
            f"{tuple(wrong.shape)} of torch.float32",
            **{name: wrong},
        )
    rejected(
        loss,
        f"{name} of each row's own must be floating point [6, K, 4], got (6, 3, 4) of torch.int64",
        **{name: torch.ones(ROWS, 3, SIZE, dtype=torch.int64)},
    )


def test_several_views_flattened_are_the_loss_that_was_meant() -> None:
    z, labels = torch.randn(ROWS, 3, SIZE), torch.arange(ROWS)
    got = losses.supcon_loss(z.flatten(0, 1), labels.repeat_interleave(3), temperature=0.5)
    scores = z.flatten(0, 1) @ z.flatten(0, 1).T / 0.5
    scores.fill_diagonal_(-torch.inf)
    same = torch.eye(ROWS).repeat_interleave(3, 0).repeat_interleave(3, 1).bool()
    same.fill_diagonal_(False)
    expected = -scores.log_softmax(1)[same].view(3 * ROWS, 2).mean()
    assert torch.allclose(got, expected)


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
        one = torch.ones(SIZE)
        for value, remedy in (
            ([[1.0, 2.0]], f"; use torch.as_tensor({name})"),
            (one.numpy(), f"; use torch.as_tensor({name})"),
            ([one, one], f"; use torch.stack({name}) or torch.cat({name})"),
            (None, ""),
            ("z", ""),
        ):
            message = f"{name} must be a tensor, got {type(value).__name__}{remedy}"
            rejected(loss, message, TypeError, **{name: value})


@each_loss
def test_losses_are_not_traced_by_fx(loss: str) -> None:
    first, *_ = embeddings_of(loss)
    with pytest.raises(TypeError, match=rf"^{loss}: {first} must be a tensor, got Proxy; torch.fx"):
        torch.fx.symbolic_trace(lambda x: getattr(losses, loss)(**{**minimal(loss), first: x}), {})


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
    with meta_as_a_device():
        rejected(
            loss,
            f"{second} must be on cpu as {first} is, got meta",
            **{second: torch.ones(ROWS, SIZE, device="meta")},
        )


@each_loss
def test_meta_tensors_have_no_loss(loss: str) -> None:
    on_meta = {n: v.to("meta") for n, v in minimal(loss).items() if isinstance(v, Tensor)}
    first, *_ = embeddings_of(loss)
    rule = f"{first} is on the meta device, it has no values to compute with"
    rejected(loss, rule, **on_meta)
    rejected(loss, rule, backend="cpu", **on_meta)


@each_loss
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_backend_that_cannot_is_refused_in_the_name_of_the_loss(loss: str) -> None:
    rejected(loss, "backend 'cuda' cannot compute this: ", backend="cuda")


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
            f"{name} must be a finite number, got",
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
    where = f"{name} is on the meta device, it has no values"
    rejected(loss, where, **changes(torch.ones((), device="meta")))


@pytest.mark.parametrize("loss", sorted(SELF_MODE))
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
        rejected(loss, "logit_bias must be a finite number, got", logit_bias=value)
    for value in ("1", True):
        message = f"logit_bias must be a number, got {type(value).__name__}"
        rejected(loss, message, TypeError, logit_bias=value)


@each_loss
def test_bias_tensors_fit(loss: str) -> None:
    rule = "logit_bias must be floating point, got torch.int64"
    rejected(loss, rule, logit_bias=torch.tensor(1))
    device = "logit_bias is on the meta device, it has no values"
    rejected(loss, device, logit_bias=torch.ones((), device="meta"))
    rule = "logit_bias must be a float or a 0-d tensor, got (4,)"
    if loss == "info_nce":
        rule = "logit_bias must have shape (6,), got (4,)"
    rejected(loss, rule, logit_bias=torch.ones(4))
