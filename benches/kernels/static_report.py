"""What a static model predicts of every launch configuration: ``python -m ...static_report``.

Kernels are compiled for GPUs that are not there; static_model.py turns their instruction counts
into cycles, milliseconds and TFLOP/s. No figure in it was measured, and every table says so.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import contrastile
import torch
from contrastile.backends.triton.backend import KEEP_FROM, interpreting
from contrastile.backends.triton.device import Device
from contrastile.backends.triton.launch import Purpose, pick, specialised, trying

from ..gpu.targets import MILLISECONDS
from ..table import show
from . import static_cuda
from .ahead_of_time import TARGETS, Compiled, compile_for
from .static_model import (
    GPUS,
    L2_RATE,
    PIPES,
    RATES,
    SIZES,
    WIDTHS,
    Gpu,
    Prediction,
    Shape,
    Tile,
    epilogue_counts,
    predict,
    tflops,
    tile_of,
)

PREDICTED = "PREDICTIONS OF A STATIC MODEL, NOT MEASUREMENTS"
UNVERIFIED = "unverified: GEMMs at 720 (fp32 50, fp64 55) TFLOP/s, 60 us of launches, TB/s from L2:"
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}
# Between them they launch kernels of every purpose; a kept one has room for its dot products.
ROWS = "siglip_loss of rows"
LOSSES = ("clip_loss", "info_nce", "nt_xent", "siglip_loss", ROWS, "clip_loss, kept")
# The passes of the losses that are predicted. Each computes S, and two GEMMs follow: 4 units of
# 2 N M D flop, or 3 where one look at the scores makes sums and weights.
PASSES = {
    "clip_loss": (Purpose.REDUCE, Purpose.WEIGH),
    "info_nce": (Purpose.REDUCE_ROWS, Purpose.WEIGH),
    "siglip_loss": (Purpose.WEIGH_AND_SUM,),
    ROWS: (Purpose.REDUCE_TERMS, Purpose.WEIGH_TERMS),
}
GEMMS = 2
# Compiled once, for one D: others change the length of the main loop, of sm_80 how far it is
# unrolled, and hardly anything in the epilogue. More scores than launch the general form alone, and
# tiles divide them, as they do most batches.
COMPILED_N, COMPILED_D = 2304, 256
# Dot products are kept from an embedding size on.
KEPT_D = max(KEEP_FROM, COMPILED_D)
# Families of operations of NVIDIA's and of AMD's assembly.
COUNTED = {
    "MUFU": r"MUFU|v_(exp|log|rcp|rsq|sqrt)_",
    "SHFL": r"SHFL|ds_(bpermute|permute|swizzle)|v_permlane",
    "FFMA": r"FFMA|v_(pk_)?(fma|fmac|fmaak|fmamk)_f32",
    "FADD": r"FADD|v_(pk_)?(add|sub)_f32",
    "FMUL": r"FMUL|v_(pk_)?mul_f32",
    "MMA": r"(H|D|HG|UTC[A-Z]+)MMA|v_mfma",
    "all": r"[A-Za-z]",
}
RESOURCES = ("warps", "regs", "stack", "shared")
COMPILED = ("loss", "purpose", "tile", "stages", "per SM", "spec.", *RESOURCES, *COUNTED)
CYCLES = ("loss", "purpose", "D", "product", "loads", *PIPES, "main", "epilogue", "tile", "% MMA")
PAIRED = ("reduce ms", "TFLOP/s", "weights ms", "TFLOP/s", "GEMMs ms")
LOSS = (
    "loss",
    "N",
    "D",
    *PAIRED,
    "total ms",
    "TFLOP/s",
    "target ms",
    "of target",
    "if overlapped ms",
)


@dataclass(frozen=True)
class Kernel:
    """One kernel as compiled, and the configuration it was launched in."""

    loss: str
    dtype: str
    purpose: Purpose
    shape: Shape
    compiled: Compiled
    l2_rate: float

    def tile(self, size: int) -> Tile:
        """The model of its tile; the architecture must be one that the model has rates of.

        Kept dot products have no main loop.
        """
        counts = epilogue_counts(self.compiled.instructions, self.shape, self.dtype)
        rates = RATES[self.compiled.arch]
        product = 0 if self.purpose is Purpose.WEIGH_KEPT else size
        return tile_of(counts, self.shape, product, self.dtype, rates, self.l2_rate)

    def counts(self) -> dict[str, int]:
        """Instructions in the whole kernel, loop and epilogue, by family."""
        found = self.compiled.instructions.items()
        return {
            name: sum(n for k, n in found if re.match(pattern, k) and k != "NOP")
            for name, pattern in COUNTED.items()
        }


def purpose_of(kernel: str, constants: Mapping[str, Any]) -> Purpose | None:
    """None of the small kernels around the two passes."""
    if kernel == "reduce":
        return _purpose_of_reduce(constants)
    return _purpose_of_weigh(constants) if kernel == "weigh" else None


def _purpose_of_reduce(constants: Mapping[str, Any]) -> Purpose:
    if constants["GIVEN"]:
        return Purpose.REDUCE_GIVEN
    if constants["GENERAL"]:
        return Purpose.REDUCE_GENERAL
    if constants["KEEP"]:
        return Purpose.REDUCE_AND_KEEP
    if not constants["CHANNELS"]:
        return Purpose.REDUCE_TERMS
    return Purpose.REDUCE if constants["cols"].sums else Purpose.REDUCE_ROWS


def _purpose_of_weigh(constants: Mapping[str, Any]) -> Purpose:
    general = constants["GENERAL"]
    if constants["SUMS"]:
        return Purpose.WEIGH_AND_SUM
    if constants["KEPT"]:
        return Purpose.WEIGH_KEPT
    if constants["DIAGONAL"]:
        return Purpose.WEIGH_DIAGONAL_GENERAL if general else Purpose.WEIGH_DIAGONAL
    if general:
        return Purpose.WEIGH_GENERAL
    return Purpose.WEIGH if constants["CHANNELS"] else Purpose.WEIGH_TERMS


def kernels(arch: str, dtype: str, loss: str, l2_rate: float) -> Iterator[Kernel]:
    """The kernels of a loss that pass over all pairs, each as ``pick`` configures it."""
    for compiled in compile_for(arch, step_of(loss, DTYPES[dtype])):
        purpose = purpose_of(compiled.name, compiled.constants)
        if purpose is None:
            continue
        launch = pick(Device(arch, 132), DTYPES[dtype], purpose, size=compiled.constants["D"])
        if not launch.constants().items() <= compiled.constants.items():
            raise RuntimeError(f"{compiled.name} for {arch}, {dtype}: not launched as {launch}")
        shape = Shape(
            launch.rows,
            launch.cols,
            launch.depth,
            # Specialised, an instruction is one of the groups of so many warps.
            launch.warps,
            launch.per_processor,
            launch.specialize,
        )
        yield Kernel(loss, dtype, purpose, shape, compiled, l2_rate)


def step_of(loss: str, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward with a learnable scale."""

    name, _, kept = loss.partition(", ")
    name, _, of_rows = name.partition(" ")

    def step() -> None:
        size = COMPILED_N, KEPT_D if kept else COMPILED_D
        x, y = (torch.ones(size, dtype=dtype, requires_grad=True) for _ in "xy")
        scale = torch.tensor(14.3, requires_grad=True)
        # Room for a strip of G, and for dot products and one block more only where they are kept.
        blocks = 3 if kept else 1
        workspace = blocks * COMPILED_N**2 * max(dtype.itemsize, 4)
        own: dict[str, Any] = {"backend": "triton", "workspace": workspace}
        if of_rows:
            own["reduction"] = "none"
        getattr(contrastile, name)(x, y, logit_scale=scale, **own).sum().backward()

    return step


def parser() -> argparse.ArgumentParser:
    """The command line."""
    new = argparse.ArgumentParser(
        prog="python -m contrastile.benches.kernels.static_report",
        description="Compiles every kernel and predicts its speed; runs none. Half a minute for "
        "an architecture and dtype that Triton has not cached.",
    )
    new.add_argument("--arch", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="ARCH")
    new.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES), metavar="DTYPE")
    new.add_argument("--loss", nargs="+", choices=LOSSES, default=list(LOSSES), metavar="LOSS")
    new.add_argument("--l2", type=float, default=L2_RATE, help="TB/s from L2 of an H100")
    new.add_argument("--specialised", action="store_true", help="the launches that are on trial")
    new.add_argument("--cuda", type=Path, help="file with CUDA kernels, not the built extension")
    new.add_argument("--no-cuda", action="store_true", help="Triton's kernels alone")
    new.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    return new


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    command = parser()
    options = command.parse_args(argv)
    if interpreting():
        command.error("TRITON_INTERPRET=1: nothing is compiled then")
    record: dict[str, Any] = {"note": PREDICTED, "unverified": f"{UNVERIFIED} {options.l2}"}
    record |= {"kernels": [], "tiles": [], "losses": []}
    record |= {f"cuda {name}": [] for name in ("kernels", "tiles", "losses", "left out")}
    for arch in options.arch:
        for dtype in options.dtype:
            print(f"compiling for {arch}, {dtype}", file=sys.stderr)
            with trying(specialised(arch) if options.specialised else {}):
                found = [k for loss in options.loss for k in kernels(arch, dtype, loss, options.l2)]
            report(arch, dtype, found, record)
            has_cuda = arch == static_cuda.ARCH and dtype in static_cuda.DTYPES
            if has_cuda and not options.no_cuda:
                report_cuda(static_cuda.look(dtype, options.cuda), dtype, options.l2, record)
    if options.out is not None:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def report(arch: str, dtype: str, found: Sequence[Kernel], record: dict[str, Any]) -> None:
    """The tables of one architecture and dtype; their figures join ``record``."""
    rows = [compiled_row(kernel) for kernel in found]
    show(
        f"{arch} {dtype}, kernels as compiled: input of {PREDICTED}",
        COMPILED,
        texts(rows),
    )
    add(record["kernels"], arch, dtype, COMPILED, rows)
    if arch not in RATES:
        print(f"{arch}: the model has no rates of it\n")
        return
    rows = [tile_row(kernel, size) for kernel in found for size in (256, 1024)]
    title = f"\n{arch} {dtype}, cycles of a tile: {PREDICTED} ({record['unverified']})"
    show(title, CYCLES, texts(rows))
    add(record["tiles"], arch, dtype, CYCLES, rows)
    for loss in (loss for loss in PASSES if any(kernel.loss == loss for kernel in found)):
        own = {kernel.purpose: kernel for kernel in found if kernel.loss == loss}
        passes = tuple(own[purpose] for purpose in PASSES[loss])
        for gpu in (gpu for gpu in GPUS if gpu.arch == arch):
            report_loss(gpu, dtype, passes, record)


def report_loss(gpu: Gpu, dtype: str, passes: tuple[Kernel, ...], record: dict[str, Any]) -> None:
    """A loss forward and backward on one GPU."""
    rows = [loss_row(gpu, dtype, passes, n, size) for n in SIZES for size in WIDTHS]
    what = f"\n{gpu.name} {dtype}, {passes[0].loss} forward and backward"
    show(f"{what}: {PREDICTED} ({record['unverified']})", LOSS, texts(rows))
    names = [*LOSS]
    names[4], names[6], names[9] = "reduce TFLOP/s", "weights TFLOP/s", "total TFLOP/s"
    add(record["losses"], gpu.name, dtype, names, rows)


def report_cuda(
    found: static_cuda.Found | str, dtype: str, l2_rate: float, record: dict[str, Any]
) -> None:
    """The tables of the CUDA kernels; beside Triton's, as far as ``record`` has them."""
    if isinstance(found, str):
        print(f"\nCUDA {dtype}: {found}")
        record["cuda left out"].append({"dtype": dtype, "reason": found})
        return
    what, arch = f"CUDA {static_cuda.ARCH} {dtype}", static_cuda.ARCH
    rows = static_cuda.kernel_rows(found)
    show(f"\n{what}, as compiled: input of {PREDICTED}", static_cuda.KERNELS, texts(rows))
    add(record["cuda kernels"], arch, dtype, static_cuda.KERNELS, rows)
    rows = static_cuda.tile_rows(found, dtype, l2_rate)
    title = f"{what}, cycles of a tile, one warpgroup's sums or weights beside the other's products"
    title = f"\n{title}: {PREDICTED} ({record['unverified']})"
    show(title, static_cuda.CYCLES, texts(rows))
    add(record["cuda tiles"], arch, dtype, static_cuda.CYCLES, rows)
    for gpu in static_cuda.gpus():
        triton = {
            (row["N"], row["D"]): row["total ms"]
            for row in record["losses"]
            if (row["of"], row["dtype"], row["loss"]) == (gpu.name, dtype, "clip_loss")
        }
        rows = static_cuda.loss_rows(found, dtype, gpu, l2_rate, triton)
        title = f"\n{gpu.name} {dtype}, clip_loss by CUDA, forward and backward"
        title = f"{title}: {PREDICTED} ({record['unverified']})"
        show(title, static_cuda.LOSS, texts(rows))
        add(record["cuda losses"], gpu.name, dtype, static_cuda.LOSS, rows)


def compiled_row(kernel: Kernel) -> list[Any]:
    shape, compiled = kernel.shape, kernel.compiled
    return [
        kernel.loss,
        kernel.purpose.value,
        f"{shape.rows}x{shape.cols}x{shape.depth}",
        compiled.constants["num_stages"],
        shape.per_processor,
        "yes" if shape.specialize else "no",
        *(shape.warps, compiled.registers, compiled.stack, compiled.shared),
        *kernel.counts().values(),
    ]


def tile_row(kernel: Kernel, size: int) -> list[Any]:
    tile = kernel.tile(size)
    return [
        kernel.loss,
        kernel.purpose.value,
        size,
        *(round(cycles) for cycles in (tile.product, tile.loads, *tile.pipes.values())),
        *(round(cycles) for cycles in (tile.main, tile.epilogue, tile.cycles)),
        round(100 * tile.product / tile.cycles, 1),
    ]


def loss_row(gpu: Gpu, dtype: str, passes: tuple[Kernel, ...], n: int, size: int) -> list[Any]:
    """The cells of LOSS; ``passes``: the weights last."""

    def predicted(overlapped: bool) -> Prediction:
        tiles = [
            (replace(t, specialize=t.specialize or overlapped), kernel.shape)
            for kernel in passes
            for t in (kernel.tile(size),)
        ]
        return predict(tiles[0] if len(tiles) > 1 else None, tiles[-1], n, size, dtype, gpu)

    own = predicted(overlapped=False)
    loss = passes[0].loss
    aimed = (gpu.name, dtype) == ("H200", "bf16")
    target = MILLISECONDS.get((loss, n, size)) if aimed else None
    return [
        loss,
        n,
        size,
        *(own.reduce_ms, tflops(1, n, size, own.reduce_ms) if len(passes) > 1 else None),
        *(own.weights_ms, tflops(1, n, size, own.weights_ms)),
        own.products_ms,
        *(own.total_ms, tflops(len(passes) + GEMMS, n, size, own.total_ms)),
        target,
        None if target is None else own.total_ms / target,
        predicted(overlapped=True).total_ms,
    ]


def texts(rows: Sequence[Sequence[Any]]) -> list[tuple[str, ...]]:
    """Cells as they are printed."""
    return [tuple(map(_text, row)) for row in rows]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def add(
    record: list[dict[str, Any]],
    place: str,
    dtype: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Rows as objects with the headings for names."""
    for row in rows:
        record.append({"of": place, "dtype": dtype, **dict(zip(headings, row, strict=True))})


if __name__ == "__main__":
    raise SystemExit(main())
