"""What every compiled kernel must keep to, on GPUs that need not be there.

``python -m contrastile.benches.kernels.gates --arch sm_90`` compiles the kernels of the losses as
they are launched, shipped or by CONTRASTILE_LAUNCHES, prints what each takes, and exits with 1 if
one breaks a rule. It runs with whatever Triton is installed; TRITON_INTERPRET must not be set, as
interpreted kernels are never compiled.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator

import torch
from contrastile.backends.triton.backend import interpreting
from contrastile.backends.triton.launch import specialised, trying

from ..cases import DTYPES
from ..problems import ROWS, SIZE, steps
from .ahead_of_time import SHARED_LIMIT, TARGETS, Compiled, compile_for

# Kernels over tiles; the others are O(N) work, but for a sweep's between reductions and products.
TILES = ("reduce", "weigh")
BLOCKS = ("scale_block", "map_block", "map_gradients", "fold")
REGISTERS = 65_536
# As a dtype: fp32 with torch's switch for tf32 on; and where it is then multiplied so.
TF32 = "tf32"
WITH_TF32 = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942")
# How a warp multiplies and loads, of sm_80 and of later ones that have nothing better.
BY_WARP = (r"mma\.sync", r"cp\.async\.c[ag]")
TENSOR_CORES = {
    **dict.fromkeys(("sm_80", "sm_86", "sm_89", "sm_120"), BY_WARP),
    "sm_90": (r"wgmma\.mma_async", r"cp\.async\.bulk\.tensor"),
    "sm_100": (r"tcgen05\.mma", r"cp\.async\.bulk\.tensor"),
    **dict.fromkeys(("gfx90a", "gfx942"), (r"v_mfma",)),
}


def broken_rules(kernel: Compiled, dtype: str) -> Iterator[str]:
    """The rules that a kernel breaks, in words."""
    yield from _beyond_resources(kernel)
    if kernel.name not in TILES:
        return
    nvidia = kernel.arch.startswith("sm_")
    if dtype in ("bf16", "fp16"):
        yield from _missing_tensor_cores(kernel)
    else:
        yield from _wrong_precision(kernel, dtype == TF32 and kernel.arch in WITH_TF32)
    if nvidia and dtype != "fp64":
        yield from _duplicated_powers(kernel)
    if kernel.constants["SPECIALIZE"] and not kernel.count("setmaxnreg"):
        yield "is not specialised: no warp hands its registers on"


def _beyond_resources(kernel: Compiled) -> Iterator[str]:
    if kernel.stack:
        yield f"spills {kernel.stack} bytes"
    if kernel.shared > SHARED_LIMIT[kernel.arch]:
        yield f"takes {kernel.shared} bytes of shared memory, {SHARED_LIMIT[kernel.arch]} exist"
    nvidia = kernel.arch.startswith("sm_")
    if nvidia and kernel.registers * kernel.warps * 32 > REGISTERS:
        yield f"takes {kernel.registers} registers for each of {32 * kernel.warps} threads"


def _multiplies(kernel: Compiled) -> bool:
    """Whether it makes dot products, and does not read them."""
    return not (kernel.constants.get("KEPT") or kernel.constants.get("GIVEN"))


def _wrong_precision(kernel: Compiled, tf32: bool) -> Iterator[str]:
    found = kernel.count(r"[tx]f32\b") > 0
    if found and not tf32:
        yield "multiplies in tf32"
    if tf32 and not found and _multiplies(kernel):
        yield "does not multiply in tf32"


def _missing_tensor_cores(kernel: Compiled) -> Iterator[str]:
    for pattern in TENSOR_CORES[kernel.arch]:
        if not kernel.count(pattern) and _multiplies(kernel):
            yield f"has no {pattern}"
    if kernel.arch in ("sm_90", "sm_100") and kernel.count(r"mma\.sync"):
        yield "multiplies by mma.sync, the slow way here"


def _duplicated_powers(kernel: Compiled) -> Iterator[str]:
    """One power a score and reduction, two in the general form of two sides: no thread computes
    what another does.
    """
    constants = kernel.constants
    # Specialised, groups of so many warps share a tile, and each has its instructions.
    tile = constants["ROWS"] * constants["COLS"] // (32 * constants["num_warps"])
    allowed = tile * len(constants["FORMS"]) * (2 if constants.get("GENERAL") else 1)
    found = kernel.instructions["MUFU.EX2"]
    if found > allowed:
        yield f"computes {found} powers a thread, {allowed} are needed"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m contrastile.benches.kernels.gates")
    parser.add_argument("--arch", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtype", nargs="+", choices=[*DTYPES, TF32], default=["bf16", "fp32"])
    parser.add_argument("--loss", nargs="+", default=None, help="default: all kinds")
    parser.add_argument("--rows", nargs="+", type=int, default=[ROWS], help=f"default: {ROWS}")
    parser.add_argument("--size", nargs="+", type=int, default=[SIZE], help=f"default: {SIZE}")
    parser.add_argument("--specialised", action="store_true", help="the launches that are on trial")
    options = parser.parse_args(argv)
    if interpreting():
        parser.error("TRITON_INTERPRET=1: nothing is compiled then")
    broken = 0
    for arch in options.arch:
        with trying(specialised(arch) if options.specialised else {}):
            for case in itertools.product(options.dtype, options.rows, options.size):
                broken += check(arch, *case, options.loss)
    print(f"{broken} rules broken")
    return 1 if broken else 0


def check(arch: str, dtype: str, rows: int, size: int, losses: list[str] | None) -> int:
    """Print the kernels of the steps of ``losses``, and the rules they break; how many."""
    torch.backends.cuda.matmul.allow_tf32 = dtype == TF32
    made = steps(DTYPES["fp32" if dtype == TF32 else dtype], rows=rows, size=size)
    broken = 0
    for loss, step in made.items():
        if losses is None or loss in losses:
            for kernel in compile_for(arch, step):
                if kernel.name in (*TILES, *BLOCKS):
                    rules = list(broken_rules(kernel, dtype))
                    broken += len(rules)
                    print(f"{arch:7}{dtype:5} {loss:21}{described(kernel)}", *rules, flush=True)
    return broken


def described(kernel: Compiled) -> str:
    """What a kernel is, and what it takes."""
    constants = kernel.constants
    tile = "x".join(str(constants[k]) for k in ("ROWS", "COLS", "DEPTH") if k in constants)
    if kernel.name in TILES:
        form = "general" if constants.get("GENERAL") else "fixed"
        even = "even" if constants["EVEN"] else "uneven"
        what = f"{kernel.name:8}{form:8}{even:7}D {constants['D']:<6}{tile:12}"
    else:
        what = f"{kernel.name:32}{tile:12}"
    return (
        f"{what}{kernel.registers:4} registers {kernel.stack:4} B stack {kernel.shared:7} B shared "
    )


if __name__ == "__main__":
    sys.exit(main())
