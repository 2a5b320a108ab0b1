"""Input makers, one way to run a loss, and to compare its numbers where they must agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from contrastile.losses.registry import LOSSES
from torch import Tensor

Arguments = dict[str, Any]
Results = dict[str, Tensor]

# S is symmetric there: the gradient of a row is one sum, where the plain formula has two of half
# the size. The errors of two sums partly cancel.
SELF_MODE = {name for name, entry in LOSSES.items() if entry.one_set}
ONE_SUM_FOR_TWO = 2**0.5


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit_rows(rows: int, size: int, rng: torch.Generator) -> Tensor:
    x = torch.randn(rows, size, generator=rng, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def overlapping_pairs(
    rows: int, columns: int, size: int, rng: torch.Generator, similarity: float = 0.7
) -> tuple[Tensor, Tensor]:
    """Unit rows; row i of both sides share a direction, but not so much that the loss vanishes."""
    x = unit_rows(rows, size, rng)
    y = unit_rows(columns, size, rng)
    shared = min(rows, columns)
    noise = (1 - similarity**2) ** 0.5
    mixed = similarity * x[:shared] + noise * y[:shared]
    y[:shared] = mixed / mixed.norm(dim=1, keepdim=True).clamp(min=1e-3)
    return x, y


def crowded_pairs(
    rows: int, columns: int, size: int, rng: torch.Generator, crowds: int = 8, spread: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Unit rows around a few directions: even at scale 100 a row has many near rivals."""
    centres = unit_rows(crowds, size, rng)
    shared = centres[torch.arange(max(rows, columns)) % crowds]
    shared = shared + spread * unit_rows(len(shared), size, rng)
    x = shared[:rows] + spread * unit_rows(rows, size, rng)
    y = shared[:columns] + spread * unit_rows(columns, size, rng)
    return x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)


def floats(arguments: Mapping[str, Any]) -> Results:
    return {k: v for k, v in arguments.items() if isinstance(v, Tensor) and v.is_floating_point()}


def cast(arguments: Mapping[str, Any], dtype: torch.dtype, *names: str) -> Arguments:
    """All floating tensors (or the named ones) at another dtype, still asking for gradients."""
    chosen = {k: v for k, v in floats(arguments).items() if not names or k in names}
    converted = {k: v.detach().to(dtype).requires_grad_(v.requires_grad) for k, v in chosen.items()}
    return {**arguments, **converted}


def upstream_of(loss: Tensor) -> Tensor:
    """A gradient that is neither one nor uniform, and the same for every dtype."""
    values = torch.randn(loss.shape, generator=generator(11), dtype=torch.float64)
    return values.to(loss.dtype)


def evaluate(function: Callable[..., Tensor], arguments: Arguments, **options: Any) -> Results:
    """The loss and the gradient of each tensor that asks for one, by name."""
    leaves = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in floats(arguments).items()
        if tensor.requires_grad
    }
    loss = function(**{**arguments, **leaves, **options})
    loss.backward(upstream_of(loss))
    for name, leaf in leaves.items():
        assert leaf.grad is not None, f"{name} got no gradient"
    return {"loss": loss.detach(), **{name: leaf.grad for name, leaf in leaves.items()}}


def truth(function: Callable[..., Tensor], arguments: Arguments, **options: Any) -> Results:
    """What `evaluate` gives with the very same numbers in fp64."""
    return evaluate(function, cast(arguments, torch.float64), **options)


def assert_results_close(
    got: Results, expected: Results, rtol: float = 1e-10, atol: float = 1e-12
) -> None:
    """Each tensor within rtol of its own largest element: cancellation is judged fairly."""
    assert got.keys() == expected.keys()
    for name, reference in expected.items():
        value = got[name]
        assert value.shape == reference.shape, f"{name}: shape {value.shape}, not {reference.shape}"
        if reference.numel() == 0:
            continue
        error = (value.double() - reference.double()).abs()
        limit = atol + rtol * reference.abs().max().item()
        if not error.max().item() <= limit:
            where = first_coordinate(~(error <= limit))
            raise AssertionError(
                f"{name}{where}: {value[where].item():.17g}, expected "
                f"{reference[where].item():.17g}; error {error.max().item():.3g} > {limit:.3g}"
            )


def ulp(value: float, dtype: torch.dtype) -> float:
    """Distance of neighbouring numbers of that size."""
    if value == 0:
        return 0.0
    _, exponent = torch.frexp(torch.tensor(value, dtype=torch.float64))
    return torch.finfo(dtype).eps * 2.0 ** (int(exponent) - 1)


def root_mean_square(error: Tensor) -> float:
    return error.square().mean().sqrt().item()


def first_coordinate(offending: Tensor) -> tuple[int, ...]:
    return tuple(offending.nonzero()[0].tolist())
