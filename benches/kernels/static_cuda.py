"""The CUDA kernels in the static model: what a warp executes of a tile, and the predicted speed.

The code of a chunk of scores stands three times; where every pair counts, as almost everywhere, the
shortest copy runs. So what is executed is taken to be the cheapest way through the branches of the
machine code that raises a power for each score, sums the columns, and multiplies G by the scores.
"""

from __future__ import annotations

import heapq
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastile import native

from . import cuda_gates
from .ahead_of_time import SHARED_LIMIT
from .cuda_gates import CHUNK
from .static_model import (
    GPUS,
    LOOP,
    RATES,
    SIZES,
    WIDTHS,
    Gpu,
    Prediction,
    Shape,
    Tile,
    family,
    predict,
    tflops,
    tile_of,
)

ARCH = "sm_90"
DTYPES = ("bf16", "fp16")
ROOT = Path(__file__).resolve().parents[2]
NVCC = Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
FLAGS = ("-std=c++17", "-O3", "-DCONTRASTILE_LEVEL=device", "-gencode=arch=compute_90a,code=sm_90a")
POWER, PRODUCT, SASS_ARCH = "MUFU.EX2", "HGMMA", "sm_90a"
# Of a chunk's columns, a warp's lanes together.
COLUMN_SHUFFLES = 14
LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?([A-Z][\w.]*)(.*)")
STEP = 16  # bytes of an instruction
# Bytes of shared memory as csrc/cuda/sm90.h divides it: barriers and staged chunks come first; a
# slab of 64 features of 128 rows.
RESERVED, SLAB, SLAB_FEATURES, FEWEST_STAGES = 1024 + 32768, 16384, 64, 3
# Thread blocks that share what they load of the keys.
CLUSTER = 2
# Eight warps multiply and form sums or weights; the copying ones hardly take part.
WARPS = 8


@dataclass(frozen=True)
class Line:
    """An instruction; where it branches to, and whether the next one never follows it."""

    address: int
    name: str
    target: int | None
    leaves: bool


@dataclass(frozen=True)
class Pass:
    """One of the two kernels of clip_loss: what a warp executes of a tile in either of its shapes,
    by whether queries are stationary.
    """

    executed: Mapping[bool, Counter[str]]

    def tile(self, size: int, dtype: str, l2_rate: float) -> Tile:
        stationary = holds_queries(size)
        shape = shape_of(stationary)
        counts = self.executed[stationary]
        own = tile_of(counts, shape, size, dtype, RATES[ARCH], l2_rate)
        # Where the queries stay, only the keys are loaded.
        lines = shape.cols / CLUSTER + (0 if stationary else shape.rows)
        share = lines / (shape.rows + shape.cols)
        return Tile(own.product, own.loads * share, own.pipes, specialize=True)


def holds_queries(size: int) -> bool:
    """As csrc/cuda/launch_sm90.h decides."""
    slabs = -(-size // SLAB_FEATURES)
    room = SHARED_LIMIT[ARCH] - RESERVED - slabs * SLAB
    return room // SLAB >= FEWEST_STAGES


def shape_of(stationary: bool) -> Shape:
    cols = 128 if stationary else 256
    return Shape(128, cols, SLAB_FEATURES, WARPS, 1, specialize=True)


@dataclass
class Piece:
    """Straight code between branches and their targets; ``after``: where it may go on."""

    counts: Counter[str]
    after: list[int]

    @property
    def multiplies(self) -> bool:
        return any(family(name) == PRODUCT for name in self.counts)

    @property
    def last(self) -> bool:
        return any(ends(name) for name in self.counts) and not self.after


ONLY = ("-arch", SASS_ARCH)


def ends(name: str) -> bool:
    return family(name) in ("EXIT", "RET")


def functions(sass: str) -> dict[str, list[Line]]:
    """The code of each function for sm_90a."""
    code: dict[str, list[Line]] = {}
    arch, own = "", list[Line]()
    for text in sass.splitlines():
        if match := re.match(r"\s*code for (sm_\w+)", text):
            arch = match[1]
        elif match := re.match(r"\s*Function : (\S+)", text):
            own = code.setdefault(match[1], []) if arch == SASS_ARCH else []
        elif match := LINE.match(text):
            target = re.search(r"0x([0-9a-f]+)\s*;", match[4]) if match[3][:3] == "BRA" else None
            to = None if target is None else int(target[1], 16)
            leaves = ends(match[3]) if to is None else match[4].lstrip().startswith("0x")
            own.append(Line(int(match[1], 16), match[3], to, leaves and not match[2]))
    return code


def pieces(code: Sequence[Line]) -> dict[int, Piece]:
    """By the address of their first instruction."""
    leaders = {line.target for line in code}
    leaders |= {line.address + STEP for line in code if line.target is not None or ends(line.name)}
    found: dict[int, Piece] = {}
    first = None
    for line, after in zip(code, [*code[1:], None], strict=True):
        if first is None or line.address in leaders:
            first = line.address
            found[first] = Piece(Counter(), [])
        own = found[first]
        own.counts[line.name] += 1
        if line.target is not None:
            own.after.append(line.target)
        if after is not None and after.address in leaders and not line.leaves:
            own.after.append(after.address)
    return found


def cheapest_way(found: Mapping[int, Piece], wanted: Mapping[str, int]) -> Counter[str]:
    """The fewest instructions from the last product of a tile to the first of the next, or to the
    end, among them as many of some as are ``wanted``.
    """
    start = max(address for address, piece in found.items() if piece.multiplies)
    names = list(wanted)
    heap: list[tuple[int, int, int, tuple[int, ...], Counter[str]]]
    heap = [(0, 0, to, (0,) * len(names), Counter()) for to in found[start].after]
    seen, turn = set(), 0
    while heap:
        cost, _, address, had, way = heapq.heappop(heap)
        piece = found[address]
        if (piece.multiplies or piece.last) and all(
            n >= wanted[name] for n, name in zip(had, names, strict=True)
        ):
            return way
        if (address, had) in seen or piece.multiplies or piece.last:
            continue
        seen.add((address, had))
        have = tuple(
            min(n + piece.counts[name], wanted[name]) for n, name in zip(had, names, strict=True)
        )
        own = way + piece.counts
        for to in piece.after:
            turn += 1
            heapq.heappush(heap, (cost + piece.counts.total(), turn, to, have, own))
    raise ValueError(f"no way through the code has {dict(wanted)}")


def executed(code: Sequence[Line], kernel: cuda_gates.Kernel) -> Counter[str]:
    """What a warp executes of a tile beyond the main loop."""
    scores = CHUNK * kernel.chunks
    wanted = {POWER: scores}
    # The products with G that the scale's gradient is made of, and the sums over columns.
    wanted |= {"FMNMX": 2 * scores} if kernel.kind == "weigh" else {}
    wanted |= {"SHFL.BFLY": COLUMN_SHUFFLES * kernel.chunks} if kernel.sums_columns else {}
    way = cheapest_way(pieces(code), wanted)
    loop = (*LOOP.split(), "NOP")
    return Counter({name: n for name, n in way.items() if family(name) not in loop})


def passes(path: Path, dtype: str) -> dict[str, Pass]:
    """Both kernels of clip_loss, from an extension or an object file."""
    sass = functions(cuda_gates.dump(path, "-sass", *ONLY))
    named = [code for name, code in sass.items() if cuda_gates.NAME.search(name)]
    own = [kernel for kernel in cuda_gates.kernels(path, *ONLY) if kernel.arch == SASS_ARCH]
    found: dict[str, dict[bool, Counter[str]]] = {"reduce": {}, "weigh": {}}
    for kernel, code in zip(own, named, strict=True):
        wanted = kernel.family == "sm90" and (kernel.element, kernel.form) == (dtype, "fixed")
        if wanted and (kernel.kind == "weigh" or kernel.sums_columns):
            found[kernel.kind][kernel.flags[0]] = executed(code, kernel)
    return {kind: Pass(counts) for kind, counts in found.items()}


def source(dtype: str, folder: Path) -> Path | str:
    """A file with the kernels: the built extension, else one compiled now; else why neither."""
    module = native.load()
    if module is not None and "90a" in native.cuda_archs().split():
        return Path(str(module.__file__))
    kernels = ROOT / f"csrc/cuda/sm90_{dtype}.cu"
    if not NVCC.exists() or not kernels.exists():
        missing = kernels if NVCC.exists() else NVCC
        return f"not in the extension ({native.why_no_cuda()}), and there is no {missing}"
    out = folder / f"sm90_{dtype}.o"
    command = [str(NVCC), *FLAGS, "-c", str(kernels), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return out if done.returncode == 0 else f"nvcc: {done.stderr[-500:]}"


@dataclass(frozen=True)
class Found:
    """What is known of the CUDA kernels at a dtype: all of them, and those of clip_loss."""

    kernels: tuple[cuda_gates.Kernel, ...]
    passes: Mapping[str, Pass]


def look(dtype: str, path: Path | None = None) -> Found | str:
    """The kernels in ``path`` or where ``source`` finds some; or why there are none."""
    with tempfile.TemporaryDirectory(prefix="static-") as folder:
        place = path or source(dtype, Path(folder))
        if isinstance(place, str):
            return place
        own = (
            k for k in cuda_gates.kernels(place, *ONLY) if (k.family, k.element) == ("sm90", dtype)
        )
        return Found(tuple(own), passes(place, dtype))


KERNELS = ("kernel", "regs", "stack", "MUFU", "SHFL", "FFMA", "FADD", "all")
CYCLES = ("pass", "D", "product", "loads", *("mufu", "exchange", "fp32", "alu", "issue"), "tile")
LOSS = (
    *("N", "D", "reduce ms", "reduce TFLOP/s", "weights ms", "weights TFLOP/s", "GEMMs ms"),
    *("total ms", "total TFLOP/s", "Triton ms", "Triton / CUDA"),
)


def kernel_rows(found: Found) -> list[list[Any]]:
    """Resources and instructions of all code of each kernel."""
    return [
        [
            kernel.name,
            kernel.registers,
            kernel.stack,
            *(kernel.counts[name] for name in KERNELS[3:-1]),
            sum(n for name, n in kernel.counts.items() if "." not in name and name != "NOP"),
        ]
        for kernel in found.kernels
    ]


def tile_rows(found: Found, dtype: str, l2_rate: float) -> list[list[Any]]:
    """Cycles of a tile at each D."""
    rows = []
    for kind, own in found.passes.items():
        for size in WIDTHS:
            tile = own.tile(size, dtype, l2_rate)
            pipes = (tile.pipes[name] for name in CYCLES[4:-1])
            cycles = (tile.product, tile.loads, *pipes, tile.cycles)
            rows.append([kind, size, *map(round, cycles)])
    return rows


def predicted(found: Found, n: int, size: int, dtype: str, gpu: Gpu, l2_rate: float) -> Prediction:
    """clip_loss forward and backward."""
    shape = shape_of(holds_queries(size))
    reduce, weigh = (
        (found.passes[kind].tile(size, dtype, l2_rate), shape) for kind in ("reduce", "weigh")
    )
    return predict(reduce, weigh, n, size, dtype, gpu)


def loss_rows(
    found: Found, dtype: str, gpu: Gpu, l2_rate: float, triton: Mapping[tuple[int, int], float]
) -> list[list[Any]]:
    """By N and D; ``triton``: its predicted milliseconds, as far as they are known."""
    rows = []
    for n in SIZES:
        for size in WIDTHS:
            own = predicted(found, n, size, dtype, gpu, l2_rate)
            other = triton.get((n, size))
            row: list[Any] = [n, size, own.reduce_ms, tflops(1, n, size, own.reduce_ms)]
            row += [own.weights_ms, tflops(1, n, size, own.weights_ms), own.products_ms]
            row += [own.total_ms, tflops(4, n, size, own.total_ms), other]
            rows.append([*row, None if other is None else other / own.total_ms])
    return rows


def gpus() -> list[Gpu]:
    return [gpu for gpu in GPUS if gpu.arch == ARCH]
