"""What every compiled kernel must keep to, on GPUs that need not be there.

``python -m contrastile.benches.gates --arch sm_90`` compiles the kernels of the losses as they are
shipped, prints what each takes, and exits with 1 if one breaks a rule. It runs with whatever Triton
is installed; TRITON_INTERPRET must not be set, as interpreted kernels are never compiled.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

import contrastile.functional as losses
import torch
from torch import Tensor

from .ahead_of_time import SHARED_LIMIT, TARGETS, Compiled, compile_for

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}
# Kernels over tiles; the others are O(N) work.
TILES = ("reduce", "weigh")
REGISTERS = 65_536
# No tile of any configuration divides the rows, and embeddings are aligned. From KEPT_SIZE on dot
# products are kept in every dtype, if the workspace has room.
ROWS, SIZE, KEPT_SIZE = 1000, 512, 1024


def steps(dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """A step of each kind of problem: sides, self mode, predicates, pair sums, two reductions; and
    those kernels that keep dot products.
    """

    def make(size: int = SIZE) -> Tensor:
        return torch.randn(ROWS, size).to(dtype).requires_grad_()

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, requires_grad=True)

    ids = torch.arange(ROWS) % 7
    kept: dict[str, Any] = {"backend": "triton"}
    own = {**kept, "workspace": ROWS * ROWS * max(dtype.itemsize, 4)}
    made: dict[str, Callable[[], Tensor]] = {
        "clip_loss": lambda: losses.clip_loss(make(), make(), logit_scale=scalar(9.0), **own),
        "info_nce": lambda: losses.info_nce(make(), make(), temperature=0.1, **own),
        "nt_xent": lambda: losses.nt_xent(make(), make(), logit_scale=scalar(9.0), **own),
        "supcon_loss": lambda: losses.supcon_loss(make(), ids, logit_scale=scalar(9.0), **own),
        "multi_positive_nce": lambda: losses.multi_positive_nce(
            make(), make(), ids, ids, logit_scale=scalar(9.0), **own
        ),
        "siglip_loss": lambda: losses.siglip_loss(
            make(), make(), logit_scale=scalar(9.0), logit_bias=scalar(-9.0), **own
        ),
        "siglip_loss with ids": lambda: losses.siglip_loss(
            make(), make(), ids=ids, logit_scale=scalar(9.0), logit_bias=scalar(-9.0), **own
        ),
        "clip_loss, kept": lambda: losses.clip_loss(
            make(KEPT_SIZE), make(KEPT_SIZE), logit_scale=scalar(9.0), **kept
        ),
        "nt_xent, kept": lambda: losses.nt_xent(
            make(KEPT_SIZE), make(KEPT_SIZE), logit_scale=scalar(9.0), **kept
        ),
        "siglip_loss, kept": lambda: losses.siglip_loss(
            make(KEPT_SIZE), make(KEPT_SIZE), logit_scale=9.0, logit_bias=-9.0, **kept
        ),
    }
    return {name: _with_backward(step) for name, step in made.items()}


def _with_backward(step: Callable[[], Tensor]) -> Callable[[], object]:
    return lambda: step().backward()


def broken_rules(kernel: Compiled, dtype: str) -> Iterator[str]:
    """The rules that a kernel over tiles breaks, in words."""
    nvidia = kernel.arch.startswith("sm_")
    if kernel.stack:
        yield f"spills {kernel.stack} bytes"
    if kernel.shared > SHARED_LIMIT[kernel.arch]:
        yield f"takes {kernel.shared} bytes of shared memory, {SHARED_LIMIT[kernel.arch]} exist"
    if nvidia and kernel.registers * kernel.warps * 32 > REGISTERS:
        yield f"takes {kernel.registers} registers for each of {32 * kernel.warps} threads"
    if dtype in ("bf16", "fp16"):
        yield from _missing_tensor_cores(kernel)
    elif nvidia and kernel.count("tf32"):
        yield "multiplies in tf32"
    if nvidia and dtype != "fp64":
        yield from _duplicated_powers(kernel)


def _missing_tensor_cores(kernel: Compiled) -> Iterator[str]:
    wanted = {
        "sm_80": (r"mma\.sync", r"cp\.async\.c[ag]"),
        "sm_90": (r"wgmma\.mma_async", r"cp\.async\.bulk\.tensor"),
        "sm_100": (r"tcgen05\.mma", r"cp\.async\.bulk\.tensor"),
        "sm_120": (r"mma\.sync", r"cp\.async\.c[ag]"),
        "gfx942": (r"v_mfma",),
    }
    for pattern in wanted[kernel.arch]:
        if not kernel.count(pattern) and not kernel.constants.get("KEPT"):
            yield f"has no {pattern}"
    if kernel.arch in ("sm_90", "sm_100") and kernel.count(r"mma\.sync"):
        yield "multiplies by mma.sync, the slow way here"


def _duplicated_powers(kernel: Compiled) -> Iterator[str]:
    """One power a score and reduction, two in the general form of two sides: no thread computes
    what another does.
    """
    constants = kernel.constants
    tile = constants["ROWS"] * constants["COLS"] // (32 * kernel.warps)
    allowed = tile * reductions(kernel) * (2 if constants.get("GENERAL") else 1)
    found = kernel.instructions["MUFU.EX2"]
    if found > allowed:
        yield f"computes {found} powers a thread, {allowed} are needed"


def reductions(kernel: Compiled) -> int:
    """Channels or terms of a kernel: what the first start in its code leaves room for."""
    return int(kernel.constants["CODE"][0])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m contrastile.benches.gates")
    parser.add_argument("--arch", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bf16", "fp32"])
    parser.add_argument("--loss", nargs="+", default=None, help="default: all kinds")
    options = parser.parse_args(argv)
    broken = 0
    for arch in options.arch:
        for dtype in options.dtype:
            for name, step in steps(DTYPES[dtype]).items():
                if options.loss is None or name in options.loss:
                    broken += check(arch, dtype, name, step)
    print(f"{broken} rules broken")
    return 1 if broken else 0


def check(arch: str, dtype: str, loss: str, step: Callable[[], object]) -> int:
    """Print the kernels of a step, and the rules they break; how many."""
    broken = 0
    for kernel in compile_for(arch, step):
        if kernel.name not in TILES:
            continue
        shape = "x".join(str(kernel.constants[k]) for k in ("ROWS", "COLS", "DEPTH"))
        form = "general" if kernel.constants.get("GENERAL") else "fixed"
        rules = list(broken_rules(kernel, dtype))
        broken += len(rules)
        print(
            f"{arch:7}{dtype:5} {loss:21}{kernel.name:16}{form:8}{shape:12}"
            f"{kernel.registers:4} registers {kernel.stack:4} B stack {kernel.shared:7} B shared  "
            + "; ".join(rules),
            flush=True,
        )
    return broken


if __name__ == "__main__":
    sys.exit(main())
