"""The modules are the functions with their options kept."""

from __future__ import annotations

import copy
import inspect
import pickle

import contrastile
import contrastile.functional as losses
import pytest
import torch
import torch.distributed as dist
from cases import EVERY as LOSSES
from cases import arguments_for, covering_choices, default_choice
from contrastile.losses.registry import LOSSES as REGISTRY
from helpers import Arguments, floats
from torch import Tensor

MODULES = {loss: entry.module.__name__ for loss, entry in REGISTRY.items()}
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


def test_a_copy_shares_what_the_original_shares() -> None:
    scale = torch.nn.Parameter(torch.tensor(3.0))
    losses_of = [contrastile.ClipLoss(logit_scale=scale), contrastile.NTXent(logit_scale=scale)]
    first, second = copy.deepcopy(torch.nn.ModuleList(losses_of))
    assert first.logit_scale is second.logit_scale is not scale


def test_a_copy_is_in_the_same_group() -> None:
    """A process group cannot be copied, and a model may be, for a moving average of its weights."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        scale = torch.nn.Parameter(torch.tensor(3.0))
        module = torch.nn.Sequential(contrastile.ClipLoss(logit_scale=scale))
        module[0].group = dist.group.WORLD
        twin = copy.deepcopy(module)
    finally:
        dist.destroy_process_group()
    assert twin[0].group is module[0].group
    assert twin[0].logit_scale is not scale
    assert torch.equal(twin[0].logit_scale, scale)


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


class Projected(contrastile.ClipLoss):
    """What a user may derive: a constructor, weights and a forward of its own."""

    def __init__(self, size: int, temperature: float = 0.5) -> None:
        super().__init__(temperature=temperature, normalize=True)
        self.project = torch.nn.Linear(size, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(self.project(x), self.project(y))


class Sharper(Projected):
    """Derived once more, with nothing of its own."""


@pytest.mark.parametrize("kind", [Projected, Sharper])
def test_a_subclass_shows_its_own_signature(kind: type[Projected]) -> None:
    assert list(inspect.signature(kind).parameters) == ["size", "temperature"]
    shown = inspect.signature(contrastile.ClipLoss).parameters
    assert "label_smoothing" in shown and "size" not in shown


def test_a_subclass_may_have_weights_of_its_own() -> None:
    module = Projected(4, temperature=0.2)
    x, y = torch.randn(2, 5, 4)
    expected = losses.clip_loss(
        module.project(x), module.project(y), temperature=0.2, normalize=True
    )
    assert torch.equal(module(x, y), expected)
    assert set(module.state_dict()) == {"project.weight", "project.bias"}


def test_a_subclass_without_a_constructor_takes_the_options() -> None:
    class Named(contrastile.NTXent):
        pass

    assert inspect.signature(Named) == inspect.signature(contrastile.NTXent)


@pytest.mark.parametrize("loss", LOSSES)
def test_options_are_attributes(loss: str) -> None:
    module = module_of(loss, temperature=0.07, reduction="sum")
    for name, option in inspect.signature(type(module)).parameters.items():
        given = {"temperature": 0.07, "reduction": "sum"}.get(name, option.default)
        assert getattr(module, name) == given
    assert module.state_dict() == {}


def test_an_option_that_is_set_counts() -> None:
    _, tensors = split(arguments_for("clip_loss", default_choice("clip_loss", shape=(5, 4))))
    module = contrastile.ClipLoss(temperature=0.07)
    module.temperature = 0.5
    assert torch.equal(module(**tensors), losses.clip_loss(**tensors, temperature=0.5))
    module.temperature, module.logit_scale = None, torch.nn.Parameter(torch.tensor(3.0))
    assert torch.equal(module(**tensors), losses.clip_loss(**tensors, logit_scale=3.0))
    assert set(dict(module.named_parameters())) == {"logit_scale"}


def test_tensors_are_parameters_and_buffers() -> None:
    scale = torch.nn.Parameter(torch.tensor(10.0))
    module = contrastile.SigLip(logit_scale=scale, logit_bias=torch.tensor(-10.0))
    assert module.logit_scale is scale
    assert list(dict(module.named_parameters())) == ["logit_scale"]
    assert list(dict(module.named_buffers())) == ["logit_bias"]
    assert set(module.state_dict()) == {"logit_scale", "logit_bias"}
    other = contrastile.SigLip(
        logit_scale=torch.nn.Parameter(torch.tensor(1.0)), logit_bias=torch.zeros(())
    )
    other.load_state_dict(module.state_dict(), assign=True)
    assert other.logit_scale == 10 and other.logit_bias == -10
    assert module.double().logit_scale.dtype == torch.float64
    assert repr(contrastile.SigLip(logit_scale=scale, reduction="sum")) == "SigLip(reduction='sum')"


class Exp(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


def test_a_parametrised_scale() -> None:
    """torch's own way to learn a logarithm."""
    module = contrastile.ClipLoss(logit_scale=torch.nn.Parameter(torch.tensor(2.0)))
    torch.nn.utils.parametrize.register_parametrization(module, "logit_scale", Exp())
    x, y = torch.randn(2, 5, 4)
    assert torch.allclose(module(x, y), losses.clip_loss(x, y, logit_scale=float(torch.e**2)))
    module(x, y).backward()
    assert module.parametrizations.logit_scale.original.grad is not None


# What is wrong with an option is said where it is given.

WRONG = {
    "reduction must be one of": {"reduction": "avg"},
    "empty must be one of": {"empty": "drop"},
    "backend must be one of": {"backend": "cuda:0"},
    "workspace (bytes) must be": {"workspace": 0},
    "normalize must be True or False": {"normalize": 1},
    "temperature must be positive, got -1.0": {"temperature": -1.0},
    "temperature must be positive, got nan": {"temperature": float("nan")},
    "temperature must be a float or a tensor, got str": {"temperature": "0.1"},
    "logit_scale must be a finite number": {"logit_scale": float("inf")},
    "logit_bias must be a finite number": {"logit_bias": float("nan")},
    "give exactly one of temperature and logit_scale, got both": {
        "temperature": 0.1,
        "logit_scale": torch.nn.Parameter(torch.tensor(2.0)),
    },
    "ignore_label must be an integer or None": {"ignore_label": 0.5},
    "group must be a process group or a DeviceMesh, got 'nccl'": {"group": "nccl"},
    "grad_scale must be one of ddp, sum, none, got 'mean'": {"grad_scale": "mean"},
    "exchange must be one of auto, gather, ring, got 'all'": {"exchange": "all"},
}
OWN_WRONG: dict[str, tuple[str, object]] = {
    "margin must be a finite number, got nan": ("margin", float("nan")),
    "label_smoothing must be a finite number in [0.0, 1.0], got 2": ("label_smoothing", 2),
    "sigma must be a finite number in [": ("sigma", 0.0),
    "beta must be a finite number in [0.0, ": ("beta", -1.0),
    "tau_plus must be a finite number in [0.0, 0.999], got 1": ("tau_plus", 1.0),
    "variant must be one of out, in, got 'up'": ("variant", "up"),
    "direction must be one of both, rows, columns, got 'up'": ("direction", "up"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_options_are_checked_at_construction(loss: str) -> None:
    own = {text: {n: v} for text, (n, v) in OWN_WRONG.items() if n in LOSSES[loss]}
    for message, options in {**WRONG, **own}.items():
        with pytest.raises((ValueError, TypeError)) as caught:
            module_of(loss, **options)
        assert str(caught.value).startswith(f"{MODULES[loss]}: {message}")


@pytest.mark.parametrize("loss", LOSSES)
def test_what_forward_may_still_be_given_is_not_asked_for(loss: str) -> None:
    _, tensors = split(arguments_for(loss, default_choice(loss, shape=(5, 4))))
    module = module_of(loss)
    assert module(**tensors, temperature=0.5) == getattr(losses, loss)(**tensors, temperature=0.5)
    with pytest.raises(contrastile.InputError, match=f"^{loss}: give exactly one of .* neither"):
        module(**tensors)


@pytest.mark.parametrize("loss", LOSSES)
def test_options_have_names(loss: str) -> None:
    name = MODULES[loss]
    message = f"{name}: options are given by name, {name}(temperature=0.07), and tensors when"
    for given in ((0.07,), (torch.ones(3, 4), torch.ones(3, 4))):
        with pytest.raises(TypeError) as caught:
            getattr(contrastile, name)(*given)
        assert str(caught.value).startswith(message)
        assert str(caught.value).endswith(f"got {len(given)} without a name")
