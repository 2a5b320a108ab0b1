"""contrastile itself: the backend it chooses, and every backend by name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from contrastile.backends import BACKENDS
from contrastile.losses.registry import LOSSES

from ..cases import Case
from ..naive import LossFunction
from .base import too_large

# What the reference holds at once: scores, their gradient, probabilities, the kept pairs.
REFERENCE_MATRICES = 6


@dataclass(frozen=True)
class Contrastile:
    name: str
    backend: str
    losses: Collection[str] = tuple(LOSSES)
    eager: bool = True

    def unavailable(self) -> str | None:
        reasons = {backend.name: backend.available() for backend in BACKENDS}
        return reasons.get(self.backend)

    def supports(self, case: Case) -> str | None:
        return too_large(case, REFERENCE_MATRICES) if self.backend == "reference" else None

    def build(self, case: Case) -> LossFunction:
        return partial(case.facts.compute, backend=self.backend, workspace=case.workspace)


OWN = (
    Contrastile("contrastile", "auto"),
    *(Contrastile(f"contrastile-{backend.name}", backend.name) for backend in BACKENDS),
)
