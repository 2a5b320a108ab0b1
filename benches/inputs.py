"""Embeddings that every provider of a case gets alike."""

from __future__ import annotations

import torch
from contrastile.losses.inputs import Inputs

from .cases import Case


def make_inputs(case: Case, seed: int = 0) -> Inputs:
    """Seeded inputs of ``case``: noisy copies of common centres, as trained encoders give."""
    return case.facts.make_inputs(
        case.n,
        case.d,
        case.torch_dtype,
        generator=torch.Generator().manual_seed(seed),
        negatives=case.negatives,
        gradients=case.training,
    )
