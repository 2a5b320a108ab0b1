"""The ways the engine may cut and compute S, as a fixture: none may change a number."""

from __future__ import annotations

from typing import Any

import contrastile.native
import pytest
from contrastile.backends import pieces
from contrastile.backends.cpu import CpuBackend
from contrastile.backends.gpu import forms
from contrastile.engine.plan import Keeping, Tile

# Tiles far smaller than the inputs and no divisor of them: many ragged edges are crossed.
RAGGED = Tile(5, 7)
ONE_TILE = RAGGED.rows * RAGGED.cols * 8
# Of fp64 scores: none are kept for the backward pass, or the first few tiles.
NOTHING_KEPT = {"workspace": ONE_TILE}
SOME_KEPT = {"workspace": 6 * ONE_TILE}

# Eight rows of all 31 columns at a time.
STRIPS = {"workspace": 2200}

ENGINES: dict[str, dict[str, Any]] = {
    "reference": {"backend": "reference"},
    "cpu, one tile": {"backend": "cpu"},
    "cpu, tiles kept": {"backend": "cpu", "tile": RAGGED},
    "cpu, some tiles kept": {"backend": "cpu", "tile": RAGGED, **SOME_KEPT},
    "cpu, tiles recomputed": {"backend": "cpu", "tile": RAGGED, **NOTHING_KEPT},
    "torch pass, tiles recomputed": {
        "backend": "cpu",
        "tile": RAGGED,
        "native": False,
        **NOTHING_KEPT,
    },
    "triton": {"backend": "triton"},
    "triton, both forms": {"backend": "triton", "small": 0},
    "triton, strips": {"backend": "triton", **STRIPS},
}


# Interpreted kernels are slow. The test command has strips, and one form alone, of losses.
IN_GATES = ("triton", "triton, strips")
PARAMS = [
    pytest.param(name, marks=pytest.mark.gates if name in IN_GATES else ()) for name in ENGINES
]


@pytest.fixture(params=PARAMS)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options that a primitive takes, with the tile and the compiled pass as named."""
    chosen = dict(ENGINES[request.param])
    if tile := chosen.pop("tile", None):
        monkeypatch.setattr(CpuBackend, "tile", lambda *_: tile)
        # Keeping pays for itself at large embeddings only; here it is always on trial.
        monkeypatch.setattr(CpuBackend, "keeping", lambda *_: Keeping(0))
    if "small" in chosen:
        monkeypatch.setattr(forms, "SMALL", chosen.pop("small"))
    if not chosen.pop("native", True):
        monkeypatch.setattr(contrastile.native, "load", lambda: None)
        # Two rows of a tile at a time.
        monkeypatch.setattr(pieces, "PIECE", 2 * RAGGED.cols)
    return chosen


# Blocks that are in memory at once, about, where scores are of several planes.
BLOCKS = 8


@pytest.fixture
def engine_of_planes(engine: dict[str, Any]) -> dict[str, Any]:
    """The same for a sweep: blocks of several planes share what one has to itself otherwise."""
    if "workspace" not in engine:
        return engine
    return {**engine, "workspace": BLOCKS * engine["workspace"]}
