"""Losses with several positives: compiled, and in torch's operations where they are not."""

from __future__ import annotations

from typing import Any

import contrastile.functional as losses
import pytest
import torch
from cases import arguments_for, covering_choices
from contrastile import native
from contrastile.backends.cpu import CpuBackend
from contrastile.engine.forward import plans_of
from helpers import cast, evaluate


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("loss", ["supcon_loss", "multi_positive_nce"])
def test_both_ways_agree(loss: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all options: value and every gradient within roundings of the largest."""
    pytest.importorskip("contrastile._C", reason="the native extension is not built")
    function: Any = getattr(losses, loss)
    for choice in covering_choices(loss, strength=2, draws=40):
        given = cast(arguments_for(loss, choice), dtype)
        compiled = evaluate(function, given, backend="cpu")
        with monkeypatch.context() as patch:
            patch.setattr(CpuBackend, "block_loss", lambda *_: None)
            patch.setattr(native, "load_for", lambda _: None)
            plans_of.cache_clear()
            plain = evaluate(function, given, backend="cpu")
        plans_of.cache_clear()
        assert plain.keys() == compiled.keys()
        for name, value in plain.items():
            # Of a unit row of one number the gradient is 0, and a rounding of what lies along it.
            least = 4.0 if value.dim() == 2 and value.shape[1] == 1 else 0.0
            limit = 32 * torch.finfo(dtype).eps * max(least, float(value.abs().max()))
            torch.testing.assert_close(compiled[name], value, rtol=0.0, atol=limit)
