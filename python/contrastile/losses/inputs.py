"""What a loss takes: the names of its tensors, and seeded ones as trained encoders give them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Rows of one group have a cosine of about 1 / (1 + NOISE^2): neither solved nor hopeless.
NOISE = 1.2
ROWS_PER_LABEL = 4
POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Inputs:
    """Arguments of a loss.

    Args:
        embeddings: (x, y), (z0, z1) or (z,); leaves where gradients are wanted.
        labels: () or (labels,) or (query_ids, key_ids), int64.
        guides: embeddings of the same items by a model that is not trained; no leaves.
        scale: what the dots are multiplied by; a leaf where it is learned.
        bias: added to the scores (siglip_loss).
    """

    embeddings: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    scale: Tensor | float
    bias: Tensor | float | None = None
    guides: tuple[Tensor, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the loss takes by position."""
        return (*self.embeddings, *self.guides, *self.labels)

    @property
    def parameters(self) -> dict[str, Tensor | float]:
        """Scale and bias by the names of their options."""
        bias = {} if self.bias is None else {"logit_bias": self.bias}
        return {"logit_scale": self.scale, **bias}

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The tensors that want a gradient, by name."""
        named: dict[str, Any] = {f"embedding {i}": e for i, e in enumerate(self.embeddings)}
        named |= {"scale": self.scale, "bias": self.bias}
        return {n: t for n, t in named.items() if isinstance(t, Tensor) and t.requires_grad}

    def double(self) -> Inputs:
        """The same values, as already rounded, in fp64."""

        def leaf(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value.detach().double().requires_grad_(value.requires_grad)

        return replace(
            self,
            embeddings=tuple(map(leaf, self.embeddings)),
            guides=tuple(map(leaf, self.guides)),
            scale=leaf(self.scale),
            bias=leaf(self.bias),
        )


def taken_by_position(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the tensors that a loss cannot do without."""
    parameters = signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind in POSITIONAL and p.default is p.empty)


def names_ids(name: str) -> bool:
    """Whether an argument of this name has an integer for each item; others have a vector."""
    return name.endswith(("ids", "labels"))


def names_guide(name: str) -> bool:
    """Whether an argument of this name is of a model that is not trained."""
    return name.startswith(("guide", "teacher"))


def noisy_copies(
    counts: list[int], d: int, group: Tensor, stretched: bool, generator: torch.Generator
) -> list[Tensor]:
    """Sets of ``counts`` vectors, fp32: item i of each is a noisy copy of the centre ``group[i]``.

    They have unit length, or lengths around 1 where ``stretched``.
    """
    centres = torch.randn(len(group), d, generator=generator)

    def one(count: int) -> Tensor:
        noise = torch.randn(count, d, generator=generator)
        rows = normalize(centres[group[:count]] + NOISE * noise, dim=1)
        return rows * (0.5 + torch.rand(count, 1, generator=generator)) if stretched else rows

    return [one(count) for count in counts]
