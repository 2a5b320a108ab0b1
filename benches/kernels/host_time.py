"""What a small step costs the host: `python -m contrastile.benches.kernels.host_time`.

No GPU is needed: launches go through Triton's binder and its cache of compiled kernels and stop
before the driver; torch's operations run on a few CPU rows, so few that their work hardly counts.
What a driver takes for each launch (2 to 5 us) comes on top, for the loss and for eager torch
alike. TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import contrastile.functional as losses
import torch
import torch.nn.functional as F
from contrastile import native
from contrastile.backends.triton.start import Start
from contrastile.problem import values
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .ahead_of_time import TARGETS, recording

ROWS, SIZE, REPEATS = 8, 64, 300
Step = Callable[[], Tensor]
# Operations of torch that start no kernel.
FREE = {"empty", "empty_like", "view", "as_strided", "t", "detach", "slice", "alias", "expand"}
FREE |= {"select", "promote_types"}


class Counter(TorchDispatchMode):
    """Counts operations that would start a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += str(func).split(".")[1] not in FREE
        return func(*args, **(kwargs or {}))


def steps() -> dict[str, Step]:
    """Losses through the Triton backend, and the formula that eager torch would run."""
    rows = (F.normalize(torch.randn(ROWS, SIZE), dim=1) for _ in "xy")
    x, y = (row.bfloat16().requires_grad_() for row in rows)
    scale = torch.tensor(10.0, requires_grad=True)
    bias = torch.tensor(-5.0, requires_grad=True)
    own: dict[str, Any] = {"logit_scale": scale, "backend": "triton"}
    target = torch.arange(ROWS)

    def eager() -> Tensor:
        logits = scale * (x @ y.T).float()
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    return {
        "eager clip formula": eager,
        "clip_loss": lambda: losses.clip_loss(x, y, **own),
        "info_nce": lambda: losses.info_nce(x, y, **own),
        "nt_xent": lambda: losses.nt_xent(x, y, **own),
        "siglip_loss": lambda: losses.siglip_loss(x, y, logit_bias=bias, **own),
    }


def timed(step: Step) -> tuple[float, float]:
    """Best and median of a step forward and backward, in microseconds."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step().backward()
        times.append((time.perf_counter() - start) * 1e6)
    return min(times), statistics.median(times)


def counted(step: Step) -> tuple[int, int]:
    """Triton's launches and torch's kernels in a step forward and backward."""
    launches = 0
    start = Start.__call__

    def count(self: Start, programs: int, *arguments: Any) -> None:
        nonlocal launches
        launches += 1
        start(self, programs, *arguments)

    with mock.patch.object(Start, "__call__", count), Counter() as kernels:
        step().backward()
    return launches, kernels.count


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each loss."""
    parser = argparse.ArgumentParser(prog="python -m contrastile.benches.kernels.host_time")
    parser.add_argument("--arch", choices=TARGETS, default="sm_90")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"{'':20}{'best us':>9}{'median us':>11}{'Triton launches':>17}{'torch kernels':>15}")
    # The rows are on the CPU, whose values are looked at in every call, and whose row losses are
    # compiled code; those of a GPU are not.
    unread = mock.patch.object(values, "readable", lambda tensor: False)
    as_on_a_gpu = mock.patch.object(native, "load", lambda: None)
    with recording(options.arch), unread, as_on_a_gpu:
        for name, step in steps().items():
            step().backward()
            best, median = timed(step)
            launches, kernels = counted(step)
            print(f"{name:20}{best:9.0f}{median:11.0f}{launches:17}{kernels:15}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
