"""The formula with the whole score matrix in memory, as written and through torch.compile."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from types import FunctionType

import torch
from contrastile.losses.inputs import Inputs
from torch import Tensor

from ..cases import Case
from ..naive import NAIVE, LossFunction
from .base import too_large

# Scores, log-probabilities, and the gradients of both meet in the backward pass.
MATRICES = 5


@dataclass(frozen=True)
class Naive:
    name: str = "naive"
    losses: Collection[str] = tuple(NAIVE)
    eager: bool = True

    def unavailable(self) -> str | None:
        return None

    def supports(self, case: Case) -> str | None:
        return too_large(case, MATRICES)

    def build(self, case: Case) -> LossFunction:
        return NAIVE[case.loss]


@dataclass(frozen=True)
class Compiled(Naive):
    name: str = "naive-compiled"
    eager: bool = False

    def unavailable(self) -> str | None:
        if any(map(shutil.which, ("c++", "g++", "clang++"))):
            return None
        return "torch.compile needs a C++ compiler"

    def build(self, case: Case) -> LossFunction:
        formula = case.facts.formula

        def naive(inputs: Inputs) -> Tensor:
            return formula(inputs)

        # torch keeps a few compiled versions per code object, and a run has more cases than that.
        code = naive.__code__.replace()
        own = FunctionType(code, naive.__globals__, case.loss, None, naive.__closure__)
        return torch.compile(own, fullgraph=True, dynamic=False)


DENSE = (Naive(), Compiled())
