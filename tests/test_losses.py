"""Every loss, its options crossed, on every backend: loss and all gradients against fp64 truth."""

from __future__ import annotations

import contrastile.functional as losses
import oracles
import pytest
import torch
from cases import EVERY as LOSSES
from cases import Choice, arguments_for, covering_choices, default_choice
from helpers import assert_results_close, cast, evaluate, floats, truth

pytestmark = pytest.mark.usefixtures("poisoned_empty")

# Triples: a fault that needs three options together is found, and the list stays short.
CROSSES = [
    pytest.param(loss, seed, choice, id=f"{loss}-{seed}")
    for loss in LOSSES
    for seed, choice in enumerate(covering_choices(loss, 3, 150))
]
# Off every power of two, and larger than a tile of any vector width.
LARGE_SHAPES = [(63, 16), (131, 65)]


@pytest.mark.parametrize(("loss", "seed", "choice"), CROSSES)
def test_options_crossed(loss: str, seed: int, choice: Choice, backend: str) -> None:
    arguments = arguments_for(loss, choice, seed)
    got = evaluate(getattr(losses, loss), arguments, backend=backend)
    assert_results_close(got, evaluate(getattr(oracles, loss), arguments))


@pytest.mark.parametrize("shape", LARGE_SHAPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_many_tiles(loss: str, shape: tuple[int, int], backend: str) -> None:
    choice = default_choice(loss, shape=shape, scale="logit_scale tensor", bias="tensor")
    choice["ids"] = "few"
    arguments = arguments_for(loss, choice)
    expected = evaluate(getattr(oracles, loss), arguments)
    for workspace in (None, 1 << 14):
        got = evaluate(getattr(losses, loss), arguments, backend=backend, workspace=workspace)
        assert_results_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_dtypes(loss: str, dtype: torch.dtype, backend: str) -> None:
    """The loss is fp32, each gradient has the dtype of its input."""
    choice = default_choice(loss, shape=(33, 24), scale="logit_scale tensor", bias="tensor")
    arguments = cast(arguments_for(loss, choice), dtype)
    arguments |= cast(arguments, torch.float32, "logit_scale", "logit_bias")
    got = evaluate(getattr(losses, loss), arguments, backend=backend)
    assert got["loss"].dtype == torch.float32
    for name, tensor in floats(arguments).items():
        assert not tensor.requires_grad or got[name].dtype == tensor.dtype
    eps = torch.finfo(dtype).eps
    assert_results_close(got, truth(getattr(oracles, loss), arguments), rtol=8 * eps, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("loss", LOSSES)
def test_learned_weights(loss: str, reduction: str, backend: str) -> None:
    choice = default_choice(loss, shape=(9, 5), weights=True, ids="few", reduction=reduction)
    arguments = arguments_for(loss, choice)
    arguments["weights"].requires_grad_()
    got = evaluate(getattr(losses, loss), arguments, backend=backend)
    assert got["weights"].any()
    assert_results_close(got, evaluate(getattr(oracles, loss), arguments))


@pytest.mark.parametrize("loss", LOSSES)
def test_backends_agree_on_what_auto_means(loss: str) -> None:
    arguments = arguments_for(loss, default_choice(loss, shape=(17, 33)))
    got = evaluate(getattr(losses, loss), arguments)
    assert_results_close(got, evaluate(getattr(oracles, loss), arguments))
