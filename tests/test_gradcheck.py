"""Numerical derivatives of every loss in fp64, and no silent second derivative."""

from __future__ import annotations

import contrastile.functional as losses
import pytest
import torch
from cases import EVERY as LOSSES
from cases import arguments_for, default_choice
from helpers import Arguments, floats
from torch import Tensor


def differentiable(loss: str, scale: str, **changes: object) -> Arguments:
    choice = default_choice(loss, shape=(4, 3), scale=scale, bias="tensor", **changes)
    if loss == "dclw_loss":
        # The weight is a detached number; with a huge sigma it is a constant in truth too.
        choice["sigma"] = 1e12
    arguments = arguments_for(loss, choice)
    if loss == "distill_clip_loss":
        # By default the student's scale, detached: numerical derivatives would see it move.
        arguments["teacher_scale"] = 5.0
    return arguments


def leaves_of(arguments: Arguments) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in floats(arguments).items() if tensor.requires_grad}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("scale", ["logit_scale tensor", "temperature per row"])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck(loss: str, scale: str, reduction: str, backend: str) -> None:
    if scale not in LOSSES[loss]["scale"]:
        scale = "temperature tensor"
    rich = {"ids": "few", "margin": 0.1, "label_smoothing": 0.1, "normalize": True}
    rich = {name: value for name, value in rich.items() if name in LOSSES[loss]}
    arguments = differentiable(loss, scale, reduction=reduction, **rich)
    leaves = leaves_of(arguments)

    def of_leaves(*tensors: Tensor) -> Tensor:
        given = {**arguments, **dict(zip(leaves, tensors, strict=True))}
        return getattr(losses, loss)(**given, backend=backend)

    assert torch.autograd.gradcheck(of_leaves, tuple(leaves.values()))


def test_gradcheck_of_info_nces_own_options(backend: str) -> None:
    choice = default_choice(
        "info_nce", shape=(4, 3), scale="logit_scale per row", positives=True, negatives=5
    )
    per_key = {**choice, "negatives": 0, "bias": "per key", "margin": 0.2}
    for made in (choice, per_key):
        arguments = arguments_for("info_nce", made)
        leaves = leaves_of(arguments)

        def of_leaves(*tensors: Tensor, names=tuple(leaves), rest=arguments) -> Tensor:
            given = {**rest, **dict(zip(names, tensors, strict=True))}
            return losses.info_nce(**given, backend=backend)

        assert torch.autograd.gradcheck(of_leaves, tuple(leaves.values()))


@pytest.mark.parametrize("loss", LOSSES)
def test_double_backward_is_refused(loss: str, backend: str) -> None:
    arguments = differentiable(loss, "logit_scale tensor")
    leaves = leaves_of(arguments)
    value = getattr(losses, loss)(**arguments, backend=backend)
    first = torch.autograd.grad(value, tuple(leaves.values()), create_graph=True)
    penalty = torch.stack([gradient.square().sum() for gradient in first]).sum()
    with pytest.raises(RuntimeError, match=r"(?i)twice|double.backward|second.derivative"):
        penalty.backward()
