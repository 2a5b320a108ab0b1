"""What a plain step may not do on a GPU: wait for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import contrastile.functional as losses
import pytest
from contrastile import native
from contrastile.losses import advice
from contrastile.problem import values
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operations that make the host wait for the device, and that no graph can capture.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim"}


class Waits(TorchDispatchMode):
    """Counts the operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.name().removeprefix("aten::").partition(".")[0]
        if name in WAITING:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def as_on_a_device(monkeypatch: pytest.MonkeyPatch, looked: bool = False) -> None:
    """Tensors of the CPU are taken for such of a GPU: their values are not looked at in each call,
    and no compiled code of the CPU reaches them.

    ``looked``: every function was called before, so that there is no first look at one either.
    """
    monkeypatch.setattr(values, "readable", lambda tensor: False)
    monkeypatch.setattr(native, "load", lambda: None)
    monkeypatch.setattr(values, "is_at_hand", lambda tensor: False)
    called = {(name, False): 1 for name in losses.__all__ if looked}
    monkeypatch.setattr(advice, "CALLS", called)


STEPS: dict[str, Callable[..., Tensor]] = {
    "clip_loss": losses.clip_loss,
    "info_nce": losses.info_nce,
    "nt_xent": losses.nt_xent,
    "dcl_loss": losses.dcl_loss,
    "siglip_loss": losses.siglip_loss,
}
