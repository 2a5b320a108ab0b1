"""A look at a call that worked: is it probably not what was meant?

Each rule is drawn so that no right use is near it; what cannot be told apart from right use stands
in docs/faq.md instead. On the CPU the first call of each function is looked at, the second, the
fourth and so on, ever more rarely, so that a look costs a training nothing. A look at a GPU's
values waits for it: there the first call is looked at, and none that a CUDA graph is capturing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..problem import values
from ..problem.advice import advise, wanted

# Scales of which somebody forgot the exponential: logarithms of 1 / temperature as they start or
# are clamped, and as they are typed. Compared to a few roundings of fp32: no scale that is learned
# as it is passes through one of them by chance.
TYPED = (2.303, 2.3026, 2.659, 2.6592, 2.6593, 4.605, 4.6052)
LOGARITHMS = (*(math.log(1 / t) for t in (0.01, 0.02, 0.05, 0.07, 0.1)), *TYPED)
ROUNDINGS = 4e-7
# Two rows whose lengths multiply to LONG were not normalised; a scale from SHARP on was meant for
# such that are, whose scores reach 200 at temperature 0.005.
LONG = 2.0
SHARP = 5.0
SATURATED = 300.0
# How many rows of a set are looked at.
ROWS = 4

# Calls of each function with tensors on a CPU, or not, but those that are not looked at.
CALLS: dict[tuple[str, bool], int] = {}


def advise_on(caller: str, query: Tensor, key: Tensor, options: Mapping[str, Any]) -> None:
    """Advice on a call of ``caller`` with these tensors (two sets, or one and its labels)."""
    if not _may_look(caller, query):
        return
    if not key.is_floating_point():
        key = query
    scale = _smallest_scale(options)
    if scale is None:
        return
    if scale < 0:
        advise(
            caller,
            "negative scale",
            f"logit_scale is negative ({scale:g}), which pulls negatives closer and pushes "
            "positives away; learn its logarithm and pass log_scale.exp(), or negate one set of "
            "embeddings",
        )
    if forgotten_exponential(scale):
        advise(
            caller,
            "logarithm of a scale",
            f"the scale {scale:.4f} looks like the logarithm of {math.exp(scale):.4g}; a scale is "
            "the factor itself, pass logit_scale=log_scale.exp()",
        )
    if scale >= SHARP and not options.get("normalize", False):
        _advise_on_lengths(caller, query, key, scale)


def forgotten_exponential(scale: float) -> bool:
    """Whether ``scale`` is one of the logarithms that scales start at."""
    return any(math.isclose(scale, logarithm, rel_tol=ROUNDINGS) for logarithm in LOGARITHMS)


def _may_look(caller: str, tensor: Tensor) -> bool:
    if not wanted():
        return False
    at_hand = values.is_at_hand(tensor)
    calls = CALLS.get((caller, at_hand), 0) + 1
    if not at_hand and values.capturing(tensor):
        return False
    CALLS[caller, at_hand] = calls
    if values.checking():
        return values.readable(tensor)
    # The first, second, fourth ... on a CPU, the first on a GPU.
    return calls == 1 or (at_hand and calls & (calls - 1) == 0)


def _smallest_scale(options: Mapping[str, Any]) -> float | None:
    """What all dot products are multiplied by at least."""
    scale, temperature = options.get("logit_scale"), options.get("temperature")
    if scale is not None:
        return _end(scale, torch.min)
    largest = None if temperature is None else _end(temperature, torch.max)
    # One that is not positive is an error, or a NaN loss.
    return 1.0 / largest if largest is not None and largest > 0 else None


def _end(given: float | Tensor, which: Callable[[Tensor], Tensor]) -> float | None:
    if not isinstance(given, Tensor):
        return float(given)
    return float(which(given.detach())) if given.numel() else None


def _advise_on_lengths(caller: str, query: Tensor, key: Tensor, scale: float) -> None:
    if not (len(query) and len(key)):
        return
    lengths = _shortest(query) * _shortest(key)
    if lengths >= LONG and scale * lengths >= SATURATED:
        advise(
            caller,
            "long embeddings",
            f"the embeddings are not of unit length, and with a scale of {scale:.4g} (temperature "
            f"{1 / scale:.2g}) their scores reach about {scale * lengths:.0f}: the softmax knows "
            "only 0 and 1 then; pass normalize=True, or a larger temperature",
        )


def _shortest(embeddings: Tensor) -> float:
    """The least length among the first rows: one long row is no mistake, long rows are."""
    first = embeddings.detach().flatten(0, -2)[:ROWS].float()
    return float(torch.linalg.vector_norm(first, dim=1).min())
