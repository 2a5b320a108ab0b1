"""An item without a class: it has no positive by id, and no id makes it less of a negative."""

from __future__ import annotations

from typing import Any

import contrastile.functional as losses
import oracles
import pytest
import torch
from cases import LOSSES, arguments_for, covering_choices, default_choice
from helpers import Arguments, assert_results_close, evaluate
from rejections import each_loss, rejected
from torch import Tensor

INT64 = torch.iinfo(torch.int64)
IDS = ("ids", "labels", "query_ids", "key_ids")


def with_ids(loss: str, choice: dict[str, Any], seed: int) -> Arguments:
    """Arguments of which some ids are -1, and as many classes are left."""
    arguments = arguments_for(loss, choice, seed)
    rng = torch.Generator().manual_seed(seed)
    for name in IDS:
        if name in arguments:
            lost = torch.rand(len(arguments[name]), generator=rng) < 0.4
            arguments[name] = arguments[name].masked_fill(lost, -1)
    return arguments


def spelled_out(arguments: Arguments, ignored: int) -> Arguments:
    """The same for the plain formula: every item without a class has one that nobody shares."""
    free = 1000
    changed = dict(arguments)
    for name in IDS:
        if name in arguments:
            ids = arguments[name].clone()
            for i in (ids == ignored).nonzero()[:, 0].tolist():
                ids[i], free = free, free + 1
            changed[name] = ids
    return changed


def relabelled(arguments: Arguments, old: int, new: int) -> Arguments:
    def swap(ids: Tensor) -> Tensor:
        return torch.where(ids == old, new, torch.where(ids == new, old, ids))

    return {name: swap(v) if name in IDS else v for name, v in arguments.items()}


@each_loss
def test_equals_the_formula(loss: str) -> None:
    choices = [c for c in covering_choices(loss, 2, 60) if c.get("ids")]
    for seed, choice in enumerate(choices):
        arguments = with_ids(loss, choice, seed)
        expected = evaluate(getattr(oracles, loss), spelled_out(arguments, -1))
        got = evaluate(getattr(losses, loss), arguments, backend="cpu")
        assert_results_close(got, expected)


@each_loss
@pytest.mark.parametrize("label", [0, 5, INT64.max, INT64.min])
def test_any_label_may_be_the_one(loss: str, label: int) -> None:
    choice = default_choice(loss, shape=(17, 5), ids="few")
    arguments = with_ids(loss, choice, 3)
    function = getattr(losses, loss)
    expected = function(**arguments)
    assert torch.equal(function(**relabelled(arguments, -1, label), ignore_label=label), expected)
    assert not torch.equal(function(**arguments, ignore_label=None), expected)


@each_loss
def test_without_it_every_integer_is_a_class(loss: str) -> None:
    arguments = with_ids(loss, default_choice(loss, shape=(17, 5), ids="few"), 4)
    expected = evaluate(getattr(oracles, loss), arguments)
    assert_results_close(evaluate(getattr(losses, loss), arguments, ignore_label=None), expected)


@each_loss
def test_all_items_without_a_class(loss: str) -> None:
    """Of the losses whose positives are told by ids nothing is left; the others have no ids."""
    choice = default_choice(loss, shape=(9, 5), ids="all equal", reduction="none")
    arguments = arguments_for(loss, choice)
    every = {n: torch.full_like(v, -1) if n in IDS else v for n, v in arguments.items()}
    got = getattr(losses, loss)(**every)
    if loss in ("supcon_loss", "multi_positive_nce"):
        assert not got.any()
    else:
        without = {n: v for n, v in arguments.items() if n not in IDS}
        assert torch.allclose(got, getattr(losses, loss)(**without))


def test_a_queue_of_two_sets_shares_no_ignored_item() -> None:
    """One tensor of ids for two sets of embeddings: item i of one is not item i of the other."""
    query, key = torch.randn(2, 6, 4, dtype=torch.float64)
    ids = torch.tensor([0, -1, -1, 1, 2, 3])
    positives = torch.tensor([1, 2, 3, 4, 5, 0])
    got, copied = (
        losses.info_nce(query, key, positives=positives, query_ids=ids, key_ids=k, temperature=1.0)
        for k in (ids, ids.clone())
    )
    assert torch.equal(got, copied)


def test_an_item_without_a_class_is_no_negative_of_itself() -> None:
    z = torch.randn(6, 4, dtype=torch.float64)
    ids = torch.tensor([0, -1, -1, 1, 2, 3])
    positives = torch.tensor([1, 2, 3, 4, 5, 0])
    options = {"positives": positives, "temperature": 1.0}
    got = losses.info_nce(z, z, query_ids=ids, key_ids=ids, **options)
    own = torch.arange(6)
    assert torch.allclose(got, losses.info_nce(z, z, query_ids=own, key_ids=own, **options))


def test_empty_rows_are_those_without_a_class() -> None:
    z = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    rejected(
        "supcon_loss",
        "2 of 6 rows have no positive or no negative, the first is row 1; ",
        labels=torch.tensor([0, -1, 0, -1, 1, 1]),
        empty="error",
    )
    labels = torch.tensor([0, -1, 0, -1, 1, 1])
    skipped = losses.supcon_loss(z, labels, temperature=0.1, empty="skip")
    rows = losses.supcon_loss(z, labels, temperature=0.1, reduction="none")
    assert torch.allclose(skipped, rows.sum() / 4)


@each_loss
def test_a_label_is_an_integer(loss: str) -> None:
    for value in (1.0, True, "-1", torch.tensor(-1)):
        message = f"ignore_label must be an integer or None, got {value!r}"
        rejected(loss, message, TypeError, ignore_label=value)
    rejected(loss, f"ignore_label must be an int64, got {2**63}", ignore_label=2**63)


def test_every_loss_takes_ids() -> None:
    """Else the option would have no meaning there."""
    for loss in LOSSES:
        choice = default_choice(loss, shape=(4, 3), ids="few")
        assert any(name in arguments_for(loss, choice) for name in IDS)
