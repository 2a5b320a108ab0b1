"""What the kernels of selections must keep to, on GPUs that need not be there; see gates.py.

``python -m contrastile.benches.kernels.selection_gates --arch sm_90`` compiles them as they are
launched, prints what each takes, and exits with 1 if one spills or does not fit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial

import torch
from contrastile.backends.triton.backend import interpreting
from contrastile.ops import group_max, top_k
from contrastile.problem import Equal, Index, Not

from ..cases import DTYPES
from .ahead_of_time import SHARED_LIMIT, TARGETS, Compiled, compile_for
from .gates import REGISTERS, TENSOR_CORES

# No tile divides them. With HUNDRED columns a row, a second walk looks behind those of the first.
ROWS, COLS, SIZE, HUNDRED = 2088, 4100, 512, 100
KERNELS = ("top_k", "group_max")


def select(dtype: torch.dtype) -> None:
    """Few and many columns, wide and narrow groups, with a predicate and without."""
    query, key = torch.randn(ROWS, SIZE).to(dtype), torch.randn(COLS, SIZE).to(dtype)
    ids = torch.arange(ROWS) % 7, torch.arange(COLS) % 7
    pairs = Not(Index(torch.arange(ROWS))) & Not(Equal(*ids))
    for k in (1, 8, HUNDRED):
        top_k(query, key, k=k, pairs=pairs, backend="triton")
    top_k(query, key, k=8, backend="triton")
    for width in (100, 20):
        starts = torch.arange(0, COLS, width)
        group_max(query, key, starts, pairs=pairs if width == 20 else None, backend="triton")


def broken_rules(kernel: Compiled, dtype: str) -> Iterator[str]:
    """The rules that a kernel breaks, in words."""
    if kernel.stack:
        yield f"spills {kernel.stack} bytes"
    if kernel.shared > SHARED_LIMIT[kernel.arch]:
        yield f"takes {kernel.shared} bytes of shared memory, {SHARED_LIMIT[kernel.arch]} exist"
    if kernel.arch.startswith("sm_") and kernel.registers * kernel.warps * 32 > REGISTERS:
        yield f"takes {kernel.registers} registers for each of {32 * kernel.warps} threads"
    # Loads are by pointers: the first pattern is how a warp multiplies. A walk that looks behind
    # another has half as many rows, too few for the tensor cores of sm_90 and sm_100.
    multiplies = TENSOR_CORES[kernel.arch][0]
    whole = kernel.constants["ROWS"] >= 64
    if dtype in ("bf16", "fp16") and whole and not kernel.count(multiplies):
        yield f"has no {multiplies}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m contrastile.benches.kernels.selection_gates")
    parser.add_argument("--arch", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bf16", "fp32"])
    options = parser.parse_args(argv)
    if interpreting():
        parser.error("TRITON_INTERPRET=1: nothing is compiled then")
    broken = 0
    for arch in options.arch:
        for name in options.dtype:
            dtype = DTYPES[name]
            for kernel in compile_for(arch, partial(select, dtype)):
                if kernel.name in KERNELS:
                    rules = list(broken_rules(kernel, name))
                    broken += len(rules)
                    print(f"{arch:7}{name:5} {described(kernel)}", *rules, flush=True)
    print(f"{broken} rules broken")
    return 1 if broken else 0


def described(kernel: Compiled) -> str:
    """What a kernel is, and what it takes."""
    constants = kernel.constants
    tile = "x".join(str(constants[name]) for name in ("ROWS", "COLS", "DEPTH"))
    return (
        f"{kernel.name:10}K {constants.get('K', 1):<4}{tile:12}{kernel.registers:4} registers "
        f"{kernel.stack:4} B stack {kernel.shared:7} B shared "
    )


if __name__ == "__main__":
    sys.exit(main())
