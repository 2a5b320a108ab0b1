"""What the losses reject among their options, word for word."""

from __future__ import annotations

from typing import Any

import contrastile
import contrastile.functional as losses
import pytest
import torch
from cases import LOSSES, TWO_VIEWS
from contrastile.losses.options import OWN_CHOICES, OWN_NUMBERS
from rejections import ROWS, SIZE, each_loss, minimal, rejected

# Shared options.


@each_loss
def test_choices(loss: str) -> None:
    for value in ("avg", None, ["mean"], 0):
        message = f"reduction must be one of mean, sum, none, got {value!r}"
        rejected(loss, message, reduction=value)
    rejected(loss, "empty must be one of zero, skip, error, got 'drop'", empty="drop")
    for value in ("cuda:0", None, 3):
        message = f"backend must be one of auto, cpu, triton, cuda, reference, got {value!r}"
        rejected(loss, message, backend=value)


@each_loss
@pytest.mark.parametrize("name", ["normalize", "return_stats"])
def test_switches_are_bools(loss: str, name: str) -> None:
    """A string or a number is a slip of the pen: normalize="false" would be true."""
    for value in ("false", 2, None):
        message = f"{name} must be True or False, got {value!r}"
        rejected(loss, message, TypeError, **{name: value})


@each_loss
def test_workspace_is_a_number_of_bytes(loss: str) -> None:
    for value in (0, -1):
        rejected(loss, "workspace (bytes) must be a finite number in [1, ", workspace=value)
    for value in (float("nan"), float("inf")):
        rejected(loss, f"workspace (bytes) must be a finite number, got {value}", workspace=value)
    rejected(loss, "workspace (bytes) must be a number, got str", TypeError, workspace="64MiB")


@each_loss
def test_unknown_options_are_named_with_the_known(loss: str) -> None:
    with pytest.raises(TypeError, match=rf"^{loss}: no option 'temp'; its options are .*temperatu"):
        getattr(losses, loss)(**minimal(loss), temp=0.5)


@each_loss
def test_weights(loss: str) -> None:
    count = 2 * ROWS if loss == "multi_positive_nce" else ROWS
    for shape in ((count + 1,), (count, 1), ()):
        message = f"weights must have shape ({count},), got {shape}"
        rejected(loss, message, weights=torch.ones(shape))
    integers = torch.ones(count, dtype=torch.int64)
    rejected(loss, "weights must be floating point, got torch.int64", weights=integers)
    rejected(loss, "weights must be a tensor, got list", TypeError, weights=[1.0] * count)
    meta = torch.ones(count, device="meta")
    rejected(loss, "weights is on the meta device, it has no values", weights=meta)


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        *((loss, "ids") for loss in ("clip_loss", "siglip_loss", *TWO_VIEWS)),
        ("supcon_loss", "labels"),
        ("multi_positive_nce", "query_ids"),
        ("multi_positive_nce", "key_ids"),
        ("info_nce", "query_ids"),
        ("info_nce", "key_ids"),
    ],
)
def test_ids(loss: str, name: str) -> None:
    other = {"query_ids": "key_ids", "key_ids": "query_ids"}.get(name)
    rest = {other: torch.arange(ROWS)} if other else {}
    rejected(
        loss,
        f"{name} must be integers, got torch.float32; encode labels as int64, one number a class",
        **rest,
        **{name: torch.ones(ROWS)},
    )
    for shape in ((ROWS - 1,), (ROWS, 2), ()):
        rejected(
            loss,
            f"{name} must have shape (6,), got {shape}",
            **rest,
            **{name: torch.ones(shape, dtype=torch.int64)},
        )
    rejected(loss, f"{name} must be a tensor, got list", TypeError, **rest, **{name: [1] * ROWS})
    meta = torch.arange(ROWS, device="meta")
    rejected(loss, f"{name} is on the meta device, it has no values", **rest, **{name: meta})


@pytest.mark.parametrize("loss", [n for n in LOSSES if "label_smoothing" in LOSSES[n]])
def test_label_smoothing(loss: str) -> None:
    rejected(loss, "label_smoothing must be a finite number, got nan", label_smoothing=float("nan"))
    for value in (-0.1, 1.1):
        message = f"label_smoothing must be a finite number in [0.0, 1.0], got {value}"
        rejected(loss, message, label_smoothing=value)
    rejected(loss, "label_smoothing must be a number, got str", TypeError, label_smoothing="0")


@pytest.mark.parametrize("loss", [n for n in LOSSES if "margin" in LOSSES[n]])
def test_margin(loss: str) -> None:
    for value in (float("nan"), float("inf")):
        rejected(loss, f"margin must be a finite number, got {value}", margin=value)
    message = "margin must be a finite number in [-1000000.0, 1000000.0], got 10000000.0"
    rejected(loss, message, margin=1e7)
    rejected(loss, "margin must be a number, got Tensor", TypeError, margin=torch.ones(()))


# Options of one loss.


def test_info_nce_positives() -> None:
    for bad, got in (([0, 1, 2, 3, 4, 6], "0 to 6"), ([-2, 1, 2, 3, 4, 5], "-2 to 5")):
        rejected(
            "info_nce",
            f"positives must lie in [-1, 6), where -1 means none, got values from {got}",
            positives=torch.tensor(bad),
        )
    rejected("info_nce", "positives must be integers", positives=torch.ones(ROWS))
    # 2^64 - 1 would become -1, none.
    rejected("info_nce", "positives must fit int64", positives=torch.ones(ROWS, dtype=torch.uint64))
    length = "positives must have shape (6,), got (5,)"
    rejected("info_nce", length, positives=torch.arange(5))


def test_info_nce_needs_a_key_a_row() -> None:
    rejected(
        "info_nce",
        "without positives row i belongs to key i, so there must be at least as many keys as "
        "queries, got query (6, 4) and key (5, 4); pass positives=",
        key=torch.ones(5, SIZE),
    )


def test_info_nce_ids_go_together() -> None:
    for name in ("query_ids", "key_ids"):
        message = "query_ids and key_ids go together, got only one of them"
        rejected("info_nce", message, **{name: torch.arange(ROWS)})


def test_info_nce_negatives() -> None:
    size = "query and negatives need the same embedding size, got query (6, 4) and negatives (3, 5)"
    rejected("info_nce", size, negatives=torch.ones(3, 5))
    rejected("info_nce", "negatives must be [rows, embedding size]", negatives=torch.ones(3))
    rejected("info_nce", "negatives must be a tensor, got list", TypeError, negatives=[1.0])


def test_info_nce_rejects_before_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong last argument costs no pass over the scores."""

    def computed(*_: Any, **__: Any) -> None:
        raise AssertionError("scores were computed before all arguments were checked")

    monkeypatch.setattr("contrastile.parallel.columns.OwnColumns.log_sum_exp", computed)
    with pytest.raises(contrastile.InputError, match="negatives"):
        losses.info_nce(**minimal("info_nce"), negatives=torch.ones(3, 5))


@pytest.mark.parametrize("loss", ["supcon_loss", "multi_positive_nce"])
def test_variants(loss: str) -> None:
    rejected(loss, "variant must be one of out, in, got 'both'", variant="both")


def test_directions() -> None:
    message = "direction must be one of both, rows, columns, got 'up'"
    rejected("multi_positive_nce", message, direction="up")
    for direction, count in (("rows", 6), ("columns", 3), ("both", 9)):
        rejected(
            "multi_positive_nce",
            f"weights must have shape ({count},), got (4,)",
            key=torch.ones(3, SIZE),
            key_ids=torch.arange(3),
            direction=direction,
            weights=torch.ones(4),
        )


def test_sigma() -> None:
    rejected("dclw_loss", "sigma must be a finite number, got nan", sigma=float("nan"))
    for value in (0.0, -1.0):
        rejected("dclw_loss", "sigma must be a finite number in [1e-12, ", sigma=value)


def test_empty_rows_are_counted_and_named() -> None:
    message = (
        "2 of 6 rows have no positive or no negative, the first is row 1; "
        "empty='zero' or 'skip' allows them"
    )
    positives = torch.tensor([0, -1, 2, -1, 4, 5])
    rejected("info_nce", message, positives=positives, empty="error")
    labels = torch.tensor([0, 1, 0, 2, 0, 0])
    rejected("supcon_loss", message, labels=labels, empty="error")


@each_loss
def test_missing_arguments_are_pythons_own_error(loss: str) -> None:
    with pytest.raises(TypeError, match=r"missing .* required positional argument"):
        getattr(losses, loss)(torch.ones(ROWS, SIZE))


@each_loss
def test_what_follows_the_tensors_has_a_name(loss: str) -> None:
    *tensors, _ = minimal(loss).values()
    names = ", ".join(name for name in minimal(loss) if name != "temperature")
    with pytest.raises(TypeError) as caught:
        getattr(losses, loss)(*tensors, torch.tensor(14.3))
    start = f"{loss}: {names} are its positional arguments, got {len(tensors) + 1}; "
    assert str(caught.value).startswith(start + "give the others by name: logit_scale=, temper")
    own = [name for name in LOSSES[loss] if name in {*OWN_NUMBERS, *OWN_CHOICES}]
    assert all(f" {name}=" in str(caught.value) for name in own)
