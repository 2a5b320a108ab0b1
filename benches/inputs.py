"""Embeddings that every provider of a case gets alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .cases import Case

# Rows of one group have a cosine of about 1 / (1 + NOISE^2): neither solved nor hopeless.
NOISE = 1.2
ROWS_PER_LABEL = 4
SOFTMAX_SCALE = 1 / 0.07
SIGMOID_SCALE, SIGMOID_BIAS = 10.0, -10.0


@dataclass(frozen=True)
class Inputs:
    """Arguments of a loss.

    Args:
        embeddings: (x, y), (z0, z1) or (z,), leaves that require grad in training.
        labels: () or (labels,) or (query_ids, key_ids), int64.
        scale: what the dots are multiplied by; a leaf where the loss is trained with one.
        bias: added to the scores (siglip_loss).
    """

    embeddings: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    scale: Tensor | float
    bias: Tensor | None = None

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The tensors that want a gradient, by name."""
        named = {f"embedding {i}": e for i, e in enumerate(self.embeddings)}
        if isinstance(self.scale, Tensor):
            named["scale"] = self.scale
        if self.bias is not None:
            named["bias"] = self.bias
        return {name: leaf for name, leaf in named.items() if leaf.requires_grad}

    def double(self) -> Inputs:
        """The same values, as already rounded, in fp64."""

        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().double().requires_grad_(tensor.requires_grad)

        return replace(
            self,
            embeddings=tuple(map(leaf, self.embeddings)),
            scale=leaf(self.scale) if isinstance(self.scale, Tensor) else self.scale,
            bias=None if self.bias is None else leaf(self.bias),
        )


def make_inputs(case: Case, seed: int = 0) -> Inputs:
    """Seeded inputs of ``case``: noisy copies of common centres, as trained encoders give."""
    random = torch.Generator().manual_seed(seed)
    labelled = case.loss in ("supcon_loss", "multi_positive_nce")
    rows = case.n // case.facts.views
    group = torch.arange(case.m) // (ROWS_PER_LABEL if labelled else 1)
    centres = torch.randn(case.m, case.d, generator=random)

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.requires_grad_(case.training)

    def embedding(count: int) -> Tensor:
        noise = torch.randn(count, case.d, generator=random)
        rows = normalize(centres[group[:count]] + NOISE * noise, dim=1)
        if case.facts.normalize:
            rows = rows * (0.5 + torch.rand(count, 1, generator=random))
        return leaf(rows.to(case.torch_dtype))

    # A scale is a parameter of the model and stays fp32 in a half precision step.
    def parameter(value: float) -> Tensor:
        exact = torch.float64 if case.dtype == "fp64" else torch.float32
        return leaf(torch.tensor(value, dtype=exact))

    match case.loss:
        case "supcon_loss":
            return Inputs((embedding(rows),), (group,), SOFTMAX_SCALE)
        case "multi_positive_nce":
            return Inputs((embedding(rows), embedding(rows)), (group, group), SOFTMAX_SCALE)
        case "clip_loss":
            return Inputs((embedding(rows), embedding(rows)), (), parameter(SOFTMAX_SCALE))
        case "siglip_loss":
            scale, bias = parameter(SIGMOID_SCALE), parameter(SIGMOID_BIAS)
            return Inputs((embedding(rows), embedding(rows)), (), scale, bias)
        case "info_nce":
            return Inputs((embedding(rows), embedding(case.m)), (), SOFTMAX_SCALE)
        case _:
            return Inputs((embedding(rows), embedding(rows)), (), SOFTMAX_SCALE)
