"""matryoshka: the same as a separate loss of each prefix, for every loss and option."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import contrastile.functional as losses
import contrastile.native
import numpy as np
import pytest
import torch
from cases import arguments_for, default_choice
from contrastile import ClipLoss, InputError, Matryoshka, SigLip, matryoshka
from contrastile.losses import prefixes
from contrastile.losses.registry import LOSSES
from contrastile.testing import AllocationSpy
from helpers import Arguments, assert_results_close, evaluate, generator
from torch import Tensor

DIMS, WEIGHTS = (2, 5, 6), (1.0, 0.25, 2.0)
# Those whose scores are one matrix of the embeddings that they are given.
SHARED = sorted(
    {
        "clip_loss",
        "dcl_loss",
        "dclw_loss",
        "hard_negative_nce",
        "info_nce",
        "multi_positive_nce",
        "nt_xent",
        "siglip_loss",
        "supcon_loss",
    }
)


def separate(loss: Callable[..., Any], *tensors: Tensor, **options: Any) -> Tensor:
    """The sum of losses of prefixes, cut and normalised by hand."""

    def cut(x: Any, size: int) -> Any:
        if isinstance(x, tuple):
            return tuple(cut(part, size) for part in x)
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
            return x
        return torch.nn.functional.normalize(x[:, :size], dim=1)

    total = None
    for size, weight in zip(DIMS, WEIGHTS, strict=True):
        own = loss(
            *(cut(x, size) for x in tensors), **{k: cut(v, size) for k, v in options.items()}
        )
        total = own * weight if total is None else total + own * weight
    return total


def both(loss: str, arguments: Arguments, **options: Any) -> None:
    names, function = list(LOSSES[loss].tensors), getattr(losses, loss)

    def ours(**given: Any) -> Tensor:
        first = [given.pop(name) for name in names]
        return matryoshka(function, *first, dims=DIMS, dim_weights=WEIGHTS, **{**given, **options})

    def theirs(**given: Any) -> Tensor:
        first = [given.pop(name) for name in names]
        return separate(function, *first, **{**given, **options})

    assert_results_close(evaluate(ours, arguments), evaluate(theirs, arguments))


def drawn(loss: str, **changes: Any) -> Arguments:
    changes = {"shape": (24, 6), "scale": "logit_scale tensor", **changes}
    return arguments_for(loss, default_choice(loss, **changes))


@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"empty": "skip"}], ids=str)
@pytest.mark.parametrize("loss", SHARED)
def test_every_loss(loss: str, options: dict[str, Any]) -> None:
    both(loss, drawn(loss), **options)


@pytest.mark.parametrize("loss", SHARED)
def test_one_sweep_answers(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else is computed with all pairs."""
    swept: list[int] = []
    sweep = prefixes.sweep

    def counted(planes: Any, reductions: Any, **options: Any) -> Any:
        swept.append(len(planes))
        return sweep(planes, reductions, **options)

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pass over scores besides the sweep")

    monkeypatch.setattr(prefixes, "sweep", counted)
    monkeypatch.setattr(prefixes, "log_sum_exp", refused)
    arguments = drawn(loss)
    first = [arguments.pop(name) for name in LOSSES[loss].tensors]
    matryoshka(getattr(losses, loss), *first, dims=DIMS, **arguments).sum().backward()
    assert swept == [len(DIMS)]


@pytest.mark.parametrize("loss", SHARED)
def test_rich_options(loss: str) -> None:
    wanted: dict[str, Any] = {"weights": True, "ids": "few", "margin": 0.1, "label_smoothing": 0.1}
    known = {name: v for name, v in wanted.items() if name in default_choice(loss)}
    both(loss, drawn(loss, **known))


def test_further_embeddings_are_cut_too() -> None:
    rng = generator(5)

    def leaf(rows: int) -> Tensor:
        return torch.randn(rows, 6, generator=rng, dtype=torch.float64).requires_grad_()

    arguments = {"query": leaf(9), "key": leaf(11), "negatives": leaf(7), "temperature": 0.3}
    both("info_nce", {**arguments, "memory": (leaf(5).detach(),)})


def test_stats_of_each_prefix() -> None:
    rng = generator(5)
    x, y = (torch.randn(12, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    loss, stats = matryoshka(losses.clip_loss, x, y, dims=DIMS, logit_scale=5.0, return_stats=True)
    total = 0.0
    for size, own in zip(DIMS, stats, strict=True):
        value, expected = losses.clip_loss(
            x[:, :size], y[:, :size], logit_scale=5.0, return_stats=True, normalize=True
        )
        total = total + value
        torch.testing.assert_close(own.lse, expected.lse)
        assert torch.equal(own.rank, expected.rank)
    torch.testing.assert_close(loss, total)


def test_rows_of_zeros_have_no_gradient() -> None:
    x = torch.randn(8, 6, dtype=torch.float64, generator=generator(0))
    x[2, :2] = 0.0
    x[3] = 0.0
    x, y = x.requires_grad_(), torch.eye(8, 6, dtype=torch.float64).requires_grad_()
    got = torch.autograd.grad(matryoshka(losses.clip_loss, x, y, dims=DIMS, logit_scale=3.0), x)[0]
    assert not got[3].any()
    parts = [
        losses.clip_loss(x[:, :size], y[:, :size], logit_scale=3.0, normalize=True) for size in DIMS
    ]
    torch.testing.assert_close(got, torch.autograd.grad(sum(parts), x)[0])


@pytest.mark.parametrize("native", [True, False])
def test_products_are_those_of_the_longest_prefix(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features are multiplied once: forward, again in the backward pass, and once a gradient."""
    if not native:
        monkeypatch.setattr(contrastile.native, "load", lambda: None)
    from torch.utils.flop_counter import FlopCounterMode

    x, y = (torch.randn(64, 6, requires_grad=True) for _ in range(2))
    with FlopCounterMode(display=False) as counter:
        matryoshka(losses.clip_loss, x, y, dims=DIMS, logit_scale=3.0).backward()
    assert counter.get_total_flops() == 4 * 2 * 64 * 64 * 6


def test_memory() -> None:
    """Of all blocks the workspace; beside it copies of embeddings and vectors."""
    n, size = 1500, 24
    x, y = (torch.randn(n, size, requires_grad=True) for _ in range(2))
    with AllocationSpy() as spy:
        matryoshka(
            losses.clip_loss, x, y, dims=(6, 12, 24), logit_scale=3.0, workspace=2**19
        ).backward()
    beside = spy.peak_bytes - 2**19
    assert beside < 2 * n * (4 * size * 8 + 1000)
    assert spy.peak_bytes < n * n * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision(dtype: torch.dtype) -> None:
    arguments = drawn("clip_loss")
    x, y, s = (arguments[name].detach() for name in ("x", "y", "logit_scale"))
    x, y = x.to(dtype), y.to(dtype)

    def run(x: Tensor, y: Tensor, s: Tensor) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, y, s)]
        loss = matryoshka(losses.clip_loss, *leaves[:2], dims=DIMS, logit_scale=leaves[2])
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    got, true = run(x, y, s.float()), run(x.double(), y.double(), s.float().double())
    for own, exact in zip(got, true, strict=True):
        limit = 32 * torch.finfo(own.dtype).eps * max(1.0, exact.abs().max().item())
        torch.testing.assert_close(own.double(), exact, rtol=0, atol=limit)


def test_compiled_is_eager() -> None:
    x, y = (torch.randn(16, 6, generator=generator(i)).requires_grad_() for i in range(2))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return matryoshka(losses.clip_loss, x, y, dims=DIMS, logit_scale=4.0)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for got, expected in zip(
        torch.autograd.grad(compiled(x, y), (x, y)),
        torch.autograd.grad(loss(x, y), (x, y)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_the_module_is_the_function() -> None:
    x, y = (torch.randn(16, 6, generator=generator(i)) for i in range(2))
    module = Matryoshka(ClipLoss(logit_scale=4.0), DIMS, WEIGHTS)
    expected = matryoshka(losses.clip_loss, x, y, dims=DIMS, dim_weights=WEIGHTS, logit_scale=4.0)
    assert torch.equal(module(x, y), expected)
    assert torch.equal(module(x, y, temperature=0.25), expected)
    scale = torch.nn.Parameter(torch.tensor(4.0))
    learned = Matryoshka(SigLip(logit_scale=scale, logit_bias=-1.0), DIMS)
    learned(x, y).backward()
    assert [name for name, _ in learned.named_parameters()] == ["loss.logit_scale"]
    assert scale.grad is not None and scale.grad != 0
    assert "dims=(2, 5, 6)" in repr(module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": ()}, "dims must grow"),
        ({"dims": (5, 2)}, "dims must grow"),
        ({"dims": (0, 2)}, "dims must grow"),
        ({"dims": (2, 7)}, r"between 1 and the 6 features, got \(2, 7\)"),
        ({"dim_weights": (1.0,)}, "one number for each of dims, 3, got 1"),
        ({"dim_weights": (1.0, float("nan"), 1.0)}, "dim_weights"),
        ({"temperature": -1.0}, "clip_loss: temperature must be positive"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    options = {"dims": DIMS, "temperature": 0.1, **change}
    with pytest.raises(InputError, match=message):
        matryoshka(losses.clip_loss, torch.eye(6), torch.eye(6), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": "a"}, "dims must be a sequence of integers, got str"),
        ({"dims": 5}, "dims must be a sequence of integers, got int"),
        (
            {"dims": torch.tensor([2, 6])},
            "dims must be a sequence of integers, got Tensor; use dims.tolist()",
        ),
        ({"dims": [2.5]}, "dims[0] must be an integer, got float"),
        ({"dims": [True]}, "dims[0] must be an integer, got bool"),
        ({"dims": [2, "a"]}, "dims[1] must be an integer, got str"),
        ({"dim_weights": "abc"}, "dim_weights must be a sequence of numbers, got str"),
        ({"dim_weights": 3}, "dim_weights must be a sequence of numbers, got int"),
        ({"dim_weights": (1.0, "b", 1.0)}, "dim_weights[1] must be a number, got str"),
    ],
)
def test_what_is_of_a_wrong_type(change: dict[str, Any], message: str) -> None:
    options = {"dims": DIMS, **change}
    with pytest.raises(TypeError, match=f"^matryoshka: {re.escape(message)}$"):
        matryoshka(losses.clip_loss, torch.eye(6), torch.eye(6), **options, temperature=0.1)
    with pytest.raises(TypeError, match=f"^Matryoshka: {re.escape(message)}$"):
        Matryoshka(ClipLoss(temperature=0.1), **options)


@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_prefixes_may_be_numbers_of_numpy(kind: Any) -> None:
    call = {"temperature": 0.1, "dim_weights": WEIGHTS}
    x, y = (torch.randn(16, 6, generator=generator(i)) for i in range(2))
    found = matryoshka(losses.clip_loss, x, y, dims=[kind(dim) for dim in DIMS], **call)
    assert torch.equal(found, matryoshka(losses.clip_loss, x, y, dims=DIMS, **call))


def test_other_functions_are_refused() -> None:
    with pytest.raises(TypeError, match="a loss function of this package"):
        matryoshka(torch.nn.functional.cross_entropy, torch.eye(6), dims=(2,))
    with pytest.raises(TypeError, match="loss must be a loss module"):
        Matryoshka(torch.nn.CrossEntropyLoss(), (2,))
