"""gist_loss beside sentence-transformers' GISTEmbedLoss and CachedGISTEmbedLoss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clients import needs
from contrastile import GISTEmbedLoss, InputError, gist_loss
from helpers import generator, unit_rows
from torch import Tensor, nn

ROWS, SIZE, GUIDE = 19, 8, 5
library_there = needs("sentence_transformers")
OPTIONS: list[dict[str, Any]] = [
    {},
    {"margin": 0.15},
    {"margin": -0.01},
    {"margin": 0.15, "margin_mode": "relative"},
    {"contrast_anchors": False},
    {"contrast_positives": False, "margin": 0.05},
]


def drawn(*counts: int) -> tuple[list[Tensor], list[Tensor]]:
    """Embeddings and the guide's, of any length, row i of each near row i of the first."""
    rng = generator(4)
    made = []
    for size in (SIZE, GUIDE):
        centres = unit_rows(max(counts), size, rng)
        made.append([3 * (centres[:n] + 0.9 * unit_rows(n, size, rng)) for n in counts])
    return made[0], made[1]


def theirs(
    cached: bool, embeddings: list[Tensor], guides: list[Tensor], options: dict[str, Any]
) -> Tensor:
    """The library's own formula, without the models that would make the embeddings."""
    from sentence_transformer_runs import library

    losses = library(False)
    own = dict(options)
    kind = losses.CachedGISTEmbedLoss if cached else losses.GISTEmbedLoss
    loss = kind.__new__(kind)
    nn.Module.__init__(loss)
    loss.similarity_fct, loss.cross_entropy_loss = nn.CosineSimilarity(-1), nn.CrossEntropyLoss()
    loss.temperature, loss.gather_across_devices = 0.05, False
    loss.margin, loss.margin_strategy = own.pop("margin", 0.0), own.pop("margin_mode", "absolute")
    loss.contrast_anchors = own.pop("contrast_anchors", True)
    loss.contrast_positives = own.pop("contrast_positives", True)
    assert not own
    if cached:
        loss.mini_batch_size, loss.show_progress_bar = 7, False
        return loss.calculate_loss([[x] for x in embeddings], [[u] for u in guides])
    loss.must_retokenize = False
    # A model whose columns are there already; it is told which one by number.
    loss.model = lambda features: {"sentence_embedding": embeddings[int(features["column"])]}
    loss.guide = lambda features: {"sentence_embedding": guides[int(features["column"])]}
    columns = [{"column": torch.tensor(i)} for i in range(len(embeddings))]
    return loss(columns, None)


@library_there
@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_library_has_the_same_numbers(options: dict[str, Any], columns: int) -> None:
    """In fp64. Of several columns of negatives, as the cached loss has them, ours is one set."""
    embeddings, guides = drawn(*[ROWS] * columns)
    for cached in (True,) if columns == 4 else (False, True):
        found = []
        for ours in (False, True):
            leaves = [x.clone().requires_grad_() for x in embeddings]
            if ours:
                further = (torch.cat(leaves[2:]), torch.cat(guides[2:])) if columns > 2 else ()
                loss = gist_loss(
                    *leaves[:2], *guides[:2], *further, temperature=0.05, normalize=True, **options
                )
            else:
                loss = theirs(cached, leaves, guides, options)
            found.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
        torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


@library_there
def test_an_item_is_no_negative_of_itself() -> None:
    """The library leaves it out by its guide's cosine with itself, which a limit of 1 lets pass."""
    (x, y), (u, _) = drawn(ROWS, ROWS)
    cosines = nn.CosineSimilarity(-1)(u[:, None], u)
    assert bool((cosines.diagonal() <= 1.0 + 1e-3).all())
    value = gist_loss(x, y, u, u, margin=-1e-3, temperature=0.05, normalize=True)
    theirs_with_itself = theirs(False, [x, y], [u, u], {"margin": -1e-3})
    assert theirs_with_itself > value + 0.1


def test_the_guide_masks() -> None:
    """Only what exceeds the row's limit; the positive whatever it is; nothing by a margin of 2."""
    (x, y), (u, v) = drawn(ROWS, ROWS)
    call: dict[str, Any] = {"temperature": 0.05, "normalize": True, "reduction": "none"}
    assert not gist_loss(x, y, u, v, margin=2.5, **call).any()
    fewer, more = (gist_loss(x, y, u, v, margin=margin, **call) for margin in (0.1, -2.5))
    assert bool((fewer <= more).all()) and bool((fewer < more).any())
    # Without a guide's objection an item is still no negative of itself: 3 N - 2 scores a row.
    flat = {**call, "logit_scale": 0.0, "temperature": None}
    rows = gist_loss(x, y, u, v, margin=-2.5, **flat)
    torch.testing.assert_close(rows, torch.full_like(rows, 3 * ROWS - 2).log())


def test_a_guide_has_no_gradient() -> None:
    (x, y, n), (u, v, w) = drawn(ROWS, ROWS, 6)
    guides = [g.clone().requires_grad_() for g in (u, v, w)]
    leaf = x.clone().requires_grad_()
    gist_loss(leaf, y, *guides[:2], n, guides[2], temperature=0.1).backward()
    assert leaf.grad is not None and all(guide.grad is None for guide in guides)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_guide_that_is_no_number_makes_the_loss_nan(bad: float) -> None:
    (x, y, n), guides = drawn(ROWS, ROWS, 6)
    for place in range(3):
        wrong = [guide.clone() for guide in guides]
        wrong[place][2, 1] = bad
        assert gist_loss(x, y, *wrong[:2], n, wrong[2], temperature=0.1).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_loss_has_the_students_dtype(dtype: torch.dtype) -> None:
    """Whatever the guide's; its cosines are rounded to none below fp32."""
    (x, y), (u, v) = ([t.to(dtype) for t in own] for own in drawn(ROWS, ROWS))
    expected = gist_loss(x, y, u, v, temperature=0.1, normalize=True)
    assert expected.dtype == torch.float32
    for guide in (torch.float32, torch.float64):
        got = gist_loss(x, y, u.to(guide), v.to(guide), temperature=0.1, normalize=True)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=0.0)


def test_the_module_is_the_function() -> None:
    (x, y, n), (u, v, w) = drawn(ROWS, ROWS, 6)
    options = {"temperature": 0.1, "margin": 0.1, "margin_mode": "relative"}
    module = GISTEmbedLoss(**options)
    assert torch.equal(module(x, y, u, v, n, w), gist_loss(x, y, u, v, n, w, **options))
    assert torch.equal(module(x, y, u, v), gist_loss(x, y, u, v, **options))


def test_refusals() -> None:
    (x, y, n), (u, v, w) = drawn(ROWS, ROWS, 6)

    def refused(message: str, *tensors: Tensor | None, **options: Any) -> None:
        with pytest.raises(InputError, match=f"^gist_loss: {message}"):
            gist_loss(*tensors, temperature=0.1, **options)  # type: ignore[arg-type]

    refused("row i of guide_anchor is the guide's embedding of row i of anchor", x, y, u[1:], v[1:])
    refused("guide_anchor and guide_positive need the same embedding size", x, y, u, x)
    refused("negatives and guide_negatives go together", x, y, u, v, n)
    refused("negatives and guide_negatives go together", x, y, u, v, None, w)
    refused("row i of guide_negatives is the guide's", x, y, u, v, n, w[1:])
    refused("guide_anchor and guide_negatives need the same", x, y, u, v, n, n)
    refused(r"negatives must be \[rows, embedding size\]", x, y, u, v, n[None], w)
    refused("margin_mode must be one of absolute, relative", x, y, u, v, margin_mode="hard")
    with pytest.raises(TypeError, match=r"^gist_loss: contrast_anchors must be"):
        gist_loss(x, y, u, v, temperature=0.1, contrast_anchors=1)  # type: ignore[arg-type]
