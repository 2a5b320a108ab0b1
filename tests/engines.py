"""The ways the engine may cut and compute S, as a fixture: none may change a number."""

from __future__ import annotations

from typing import Any

import contrastile.native
import pytest
from contrastile.backends.cpu import CpuBackend
from contrastile.engine.blocks import Tile

# Tiles far smaller than the inputs and no divisor of them: many ragged edges are crossed.
RAGGED = Tile(5, 7)
# One tile of fp64 scores: none are kept, they are computed again in the backward pass.
NOTHING_KEPT = RAGGED.rows * RAGGED.cols * 8

ENGINES: dict[str, dict[str, Any]] = {
    "reference": {"backend": "reference"},
    "reference, recomputed": {"backend": "reference", "workspace": NOTHING_KEPT},
    "cpu, one tile": {"backend": "cpu"},
    "cpu, tiles kept": {"backend": "cpu", "tile": RAGGED},
    "cpu, tiles recomputed": {"backend": "cpu", "tile": RAGGED, "workspace": NOTHING_KEPT},
    "torch pass, tiles kept": {"backend": "cpu", "tile": RAGGED, "native": False},
    "torch pass, tiles recomputed": {
        "backend": "cpu",
        "tile": RAGGED,
        "native": False,
        "workspace": NOTHING_KEPT,
    },
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options that a primitive takes, with the tile and the compiled pass as named."""
    chosen = dict(ENGINES[request.param])
    if tile := chosen.pop("tile", None):
        monkeypatch.setattr(CpuBackend, "tile", lambda self, problem: tile)
    if not chosen.pop("native", True):
        monkeypatch.setattr(contrastile.native, "load", lambda: None)
    return chosen
