"""After warm_up no step of that size compiles anything, and nothing else has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import contrastile
import pytest
import torch
from contrastile import InputError, warm_up
from contrastile.losses.registry import LOSSES, LossEntry
from torch import Tensor

# The function stands for its module where the package's attribute is asked for.
module = sys.modules["contrastile.warm_up"]


class Spy:
    """A loss that remembers what it was called with."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        self.loss = loss
        self.calls: list[tuple[tuple[Tensor, ...], dict[str, Any]]] = []

    def __call__(self, x: Tensor, y: Tensor, **options: Any) -> Any:
        self.calls.append(((x, y), options))
        return self.loss(x, y, **options)


@pytest.mark.parametrize("entry", LOSSES.values(), ids=LOSSES)
def test_every_loss(entry: LossEntry) -> None:
    """With the tensors that each takes by position, and its module's too."""
    warm_up(entry.function, 40, 8, **entry.parameters)
    warm_up(entry.module(**entry.parameters), 40, 8)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_modules_with_a_learnable_scale(dtype: torch.dtype, backend: str) -> None:
    """Nothing of the module changes, nor what comes next at random."""
    loss = contrastile.ClipLoss(
        logit_scale=torch.nn.Parameter(torch.tensor(9.0)), backend=backend, return_stats=True
    )
    before = torch.get_rng_state()
    with torch.inference_mode():
        warm_up(loss, 33, 8, dtype)
    assert torch.equal(torch.get_rng_state(), before)
    assert loss.logit_scale.grad is None and float(loss.logit_scale.detach()) == 9.0


@pytest.mark.parametrize(
    ("n", "device", "batches"),
    [
        (4096, "cuda", [4096, 4095]),
        (1, "cuda", [1]),
        (10**9, "cpu", [module.CPU_ROWS]),
        (3, "cpu", [3]),
    ],
)
def test_batches(n: int, device: str, batches: list[int]) -> None:
    """On a GPU one that tiles may divide and one that they do not; on a CPU a few rows."""
    assert module._batches(n, torch.device(device)) == batches


def test_options_of_one_value_a_row_go_along() -> None:
    """Cut as the embeddings are; others stay."""
    spy, weights = Spy(contrastile.clip_loss), torch.rand(64)
    warm_up(spy, 64, 8, torch.float16, weights=weights, temperature=0.5, reduction="none")
    (((x, y), options),) = spy.calls
    assert x.shape == y.shape == (module.CPU_ROWS, 8) and x.dtype == y.dtype == torch.float16
    assert x.requires_grad and y.requires_grad and not torch.equal(x, y)
    assert torch.equal(options["weights"], weights[: module.CPU_ROWS])
    assert options["temperature"] == 0.5


@pytest.mark.parametrize(("n", "d"), [(0, 8), (-1, 8), (8, 0), (8.0, 8), (True, 8), (8, "8")])
def test_sizes_are_positive_integers(n: Any, d: Any) -> None:
    with pytest.raises(InputError, match=r"^warm_up: [nd] must be a positive integer, got"):
        warm_up(contrastile.clip_loss, n, d)


def test_a_wrong_option_is_the_losss_own_error() -> None:
    with pytest.raises(InputError, match=r"^clip_loss: .*temperature"):
        warm_up(contrastile.clip_loss, 8, 8, temperature=-1.0)


AHEAD = """
import sys, torch, contrastile
from contrastile.benches.kernels.ahead_of_time import recording
sys.modules["contrastile.warm_up"].CPU_ROWS = 10**9
def step(n):
    x, y = (torch.nn.functional.normalize(torch.randn(n, 64)).bfloat16() for _ in range(2))
    loss(x.requires_grad_(), y.requires_grad_(), **options).backward()
loss = contrastile.clip_loss
options = dict(logit_scale=torch.tensor(9.0, requires_grad=True), backend="triton")
with recording("sm_90") as found:
    for n in (2304, 2303):
        contrastile.warm_up(loss, n, 64, torch.bfloat16, device="cpu", **options)
    before = len(found)
    for n in (2304, 2303, 2200, 2192):
        step(n)
    print(before, len(found))
"""


@pytest.mark.gates
def test_steps_afterwards_compile_nothing() -> None:
    """As compiled for sm_90, of sizes that tiles divide and others."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", AHEAD], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = map(int, done.stdout.split())
    assert before == after > 0
