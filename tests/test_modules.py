"""The modules are the functions with their options kept."""

from __future__ import annotations

import copy
import inspect
import pickle

import contrastile
import contrastile.functional as losses
import pytest
import torch
from cases import LOSSES, arguments_for, covering_choices, default_choice
from helpers import Arguments, floats
from torch import Tensor

MODULES = {
    "info_nce": "InfoNCE",
    "clip_loss": "ClipLoss",
    "nt_xent": "NTXent",
    "dcl_loss": "DCL",
    "dclw_loss": "DCLW",
    "supcon_loss": "SupCon",
    "multi_positive_nce": "MultiPositiveNCE",
    "siglip_loss": "SigLip",
}
OVERRIDES = ("temperature", "logit_scale", "logit_bias")


def split(arguments: Arguments) -> tuple[Arguments, Arguments]:
    """Options for the constructor; tensors for the call."""
    tensors = {k: v for k, v in arguments.items() if isinstance(v, Tensor)}
    return {k: v for k, v in arguments.items() if k not in tensors}, tensors


def module_of(loss: str, **options: object) -> torch.nn.Module:
    return getattr(contrastile, MODULES[loss])(**options)


@pytest.mark.parametrize("loss", LOSSES)
def test_exported_at_the_top(loss: str) -> None:
    assert getattr(contrastile, loss) is getattr(losses, loss)
    assert {loss, MODULES[loss]} <= set(contrastile.__all__)
    assert issubclass(getattr(contrastile, MODULES[loss]), torch.nn.Module)


@pytest.mark.parametrize("loss", LOSSES)
def test_equals_the_function(loss: str) -> None:
    choices = [c for c in covering_choices(loss, 2, 40) if c["shape"][0] > 1]
    for seed, choice in enumerate(choices):
        arguments = arguments_for(loss, choice, seed)
        options, tensors = split(arguments)
        scaled = {"logit_scale", "temperature"} & options.keys()
        options |= {} if scaled else {"temperature": 0.5}
        got = module_of(loss, **options)(**tensors)
        assert torch.equal(got, getattr(losses, loss)(**arguments))


@pytest.mark.parametrize("loss", LOSSES)
def test_constructor_takes_every_option_of_the_function(loss: str) -> None:
    parameters = inspect.signature(getattr(losses, loss)).parameters.values()
    for option in parameters:
        if option.kind is not inspect.Parameter.KEYWORD_ONLY or "Tensor" in option.annotation:
            continue
        module_of(loss, **{"temperature": 0.5, option.name: option.default})
    for name in OVERRIDES:
        scaled = {} if name in ("temperature", "logit_scale") else {"temperature": 0.5}
        module_of(loss, **scaled, **{name: torch.tensor(0.5)})


@pytest.mark.parametrize("loss", LOSSES)
def test_tensors_come_in_the_order_of_the_function(loss: str) -> None:
    parameters = inspect.signature(getattr(losses, loss)).parameters
    _, tensors = split(arguments_for(loss, default_choice(loss, shape=(5, 4))))
    ordered = [tensors[name] for name in parameters if name in tensors]
    module = module_of(loss, temperature=0.5)
    assert torch.equal(module(*ordered), module(**tensors))


@pytest.mark.parametrize("loss", LOSSES)
def test_overrides_win_over_the_constructor(loss: str) -> None:
    _, tensors = split(arguments_for(loss, default_choice(loss, shape=(5, 4))))
    module, function = module_of(loss, temperature=0.5), getattr(losses, loss)
    scale = torch.tensor(7.0, requires_grad=True)
    assert torch.equal(module(**tensors), function(**tensors, temperature=0.5))
    assert torch.equal(module(**tensors, temperature=0.2), function(**tensors, temperature=0.2))
    got = module(**tensors, logit_scale=scale, logit_bias=-2.0)
    assert torch.equal(got, function(**tensors, logit_scale=scale, logit_bias=-2.0))
    got.backward()
    assert scale.grad is not None


@pytest.mark.parametrize("loss", LOSSES)
def test_repr_says_what_was_asked_for(loss: str) -> None:
    text = repr(module_of(loss, temperature=0.25, normalize=True))
    assert text.startswith(MODULES[loss] + "(")
    assert "temperature=0.25" in text
    assert "normalize=True" in text


@pytest.mark.parametrize("loss", LOSSES)
def test_copies_and_pickles_keep_the_options(loss: str) -> None:
    _, tensors = split(arguments_for(loss, default_choice(loss, shape=(5, 4))))
    module = module_of(loss, logit_scale=3.0, reduction="none")
    expected = module(**tensors)
    assert module.state_dict() == {}
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(**tensors), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_bad_option_is_named_where_it_is_given(loss: str) -> None:
    with pytest.raises(TypeError, match="colour"):
        module_of(loss, temperature=0.5, colour="red")


def test_gradients_flow_through_a_module() -> None:
    arguments = arguments_for("clip_loss", default_choice("clip_loss", shape=(5, 4)))
    _, tensors = split(arguments)
    module_of("clip_loss", temperature=0.5)(**tensors).backward()
    assert all(tensor.grad is not None for tensor in floats(tensors).values())


@pytest.mark.parametrize("loss", LOSSES)
def test_signature_shows_the_options(loss: str) -> None:
    shown = inspect.signature(getattr(contrastile, MODULES[loss])).parameters
    function = inspect.signature(getattr(losses, loss)).parameters
    options = [n for n, p in function.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert list(shown) == options
    assert "temperature" in shown
