"""Cycles of a tile, predicted from a compiled kernel's instruction counts: a model, no measurement.

Per multiprocessor, all pipes perfectly busy, no latency:

* product: 2 ROWS COLS D flop at the rate of the dtype; loads: (ROWS + COLS) D elements from L2.
  The main loop takes the larger.
* epilogue: every other instruction, once a tile. A warp instruction occupies one of four equal
  parts of a pipe for 128 / lanes cycles, the issue slot of its part for one; each part has a
  quarter of the warps. The epilogue takes as long as its busiest pipe.
* a tile takes main loop plus epilogue; of a warp-specialised kernel the larger of both.

A pass takes whole rounds of tiles, and at least what its stores take of the device's memory. Not in
the model: latencies (filling the pipeline of loads, barriers), bank conflicts, partial sums, other
kernels, a clock that sinks under load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from contrastile.backends.gpu import strips as planned

PIPES = ("mufu", "exchange", "fp32", "alu", "fp64", "issue")
ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}
ACCUMULATOR = {"bf16": 4, "fp16": 4, "fp32": 4, "fp64": 8}
SIZES = tuple(2**k for k in range(12, 19))
WIDTHS = (128, 256, 512, 768, 1024)
# Unverified. TB/s from L2 of all of an H100: a multiprocessor's share, in bytes a clock, is taken
# for the other architectures too.
L2_RATE = 7.0
# Of cuBLAS on an H100; those of fp32 and fp64 are guesses, no note has them.
GEMM_FLOPS = {"bf16": 720e12, "fp16": 720e12, "fp32": 50e12, "fp64": 55e12}
LAUNCHES_MS = 0.06
WORKSPACE, SHARE = 256 * 2**20, 64
LOOP = "HGMMA HMMA DMMA UTCHMMA WARPGROUP WARPSYNC UTMALDG LDGSTS LDGDEPBAR DEPBAR LDSM SYNCS"
MEMBERS = {
    "mufu": "MUFU F2F F2I I2F FRND",
    "exchange": "SHFL LDS STS STSM",
    "fp32": "FFMA FADD FMUL FFMA2 FADD2 FMUL2 IMAD HFMA2 HADD2 HMUL2",
    "alu": "ISETP FSETP FSEL SEL FMNMX FMNMX3 LOP3 PLOP3 IADD IADD3 VIADD SHF PRMT LEA F2FP I2FP "
    "IABS IMNMX VIMNMX SGXT FCHK MOV",
    "fp64": "DFMA DADD DMUL DSETP",
}
PIPE_OF = {name: pipe for pipe, names in MEMBERS.items() for name in names.split()}


@dataclass(frozen=True)
class Rates:
    """Of one multiprocessor and clock: flop of products, and lanes of each pipe."""

    half: int
    single: int
    double: int
    lanes: dict[str, int]

    def flop(self, dtype: str) -> int:
        """Of IEEE fp32 outside the tensor cores, of all others in them."""
        return {"fp32": self.single, "fp64": self.double}.get(dtype, self.half)

    def cycles(self, pipe: str) -> float:
        """That a warp instruction occupies its quarter of the pipe."""
        return 1.0 if pipe == "issue" else 128 / self.lanes[pipe]


def _lanes(fp32: int, fp64: int) -> dict[str, int]:
    return {"mufu": 16, "exchange": 32, "fp32": fp32, "alu": 64, "fp64": fp64}


RATES = {
    "sm_80": Rates(2048, 128, 128, _lanes(64, 32)),
    "sm_90": Rates(4096, 256, 256, _lanes(128, 64)),
    "sm_100": Rates(8192, 256, 128, _lanes(128, 64)),
}


@dataclass(frozen=True)
class Gpu:
    """A device: multiprocessors, Hz, bytes of its memory a second, bytes in it."""

    name: str
    arch: str
    processors: int
    clock: float
    memory: float
    capacity: int

    @property
    def workspace(self) -> int:
        """As a loss takes it by default, see contrastile.problem."""
        return max(WORKSPACE, self.capacity // SHARE)


GPUS = (
    Gpu("H100 SXM", "sm_90", 132, 1.755e9, 3.35e12, 78 * 2**30),
    Gpu("H200", "sm_90", 132, 1.755e9, 4.3e12, 139 * 2**30),
)


@dataclass(frozen=True)
class Shape:
    """What the model needs of a launch configuration."""

    rows: int
    cols: int
    depth: int
    warps: int
    per_processor: int
    specialize: bool


@dataclass(frozen=True)
class Tile:
    """Cycles of one tile, by what they go to."""

    product: float
    loads: float
    pipes: dict[str, float]
    specialize: bool

    @property
    def main(self) -> float:
        return max(self.product, self.loads)

    @property
    def busiest(self) -> str:
        """The pipe that limits the epilogue."""
        return max(self.pipes, key=lambda pipe: self.pipes[pipe])

    @property
    def epilogue(self) -> float:
        return self.pipes[self.busiest]

    @property
    def cycles(self) -> float:
        return max(self.main, self.epilogue) if self.specialize else self.main + self.epilogue


def family(operation: str) -> str:
    """FADD of FADD.FTZ."""
    return operation.split(".")[0]


def vector_width(operation: str) -> int:
    """Words a lane moves: the passes of a shared memory instruction."""
    if operation.endswith((".128", ".M88.4")):
        return 4
    return 2 if operation.endswith((".64", ".M88.2")) else 1


def epilogue_counts(instructions: Counter[str], shape: Shape, dtype: str) -> Counter[str]:
    """What a warp executes of a tile beyond the main loop, from the counts of the whole kernel.

    Approximated: matrix instructions, asynchronous copies and their barriers are taken for the
    loop; of fp32 and fp64 also all LDS, and of fp32 as many FFMA as whole steps of the loop have.
    Everything else is counted as executed once a tile, also the prologue of the kernel and the
    addresses in the loop: too many, rather than too few. Of sm_90 in bf16 that was 5 to 8 % more
    issue slots than the loops found in the disassembly have.
    """
    found = Counter({k: n for k, n in instructions.items() if k[:1].isalpha() and k != "NOP"})
    for name in [k for k in found if family(k) in LOOP.split()]:
        del found[name]
    if dtype in ("fp32", "fp64"):
        for name in [k for k in found if family(k) == "LDS"]:
            del found[name]
    if dtype == "fp32":
        step = shape.rows * shape.cols * shape.depth // (32 * shape.warps)
        found["FFMA"] -= found["FFMA"] // step * step
    return found


def pipe_cycles(counts: Counter[str], warps: int, rates: Rates) -> dict[str, float]:
    """Cycles for which each pipe is busy with a tile."""
    work = dict.fromkeys(PIPES, 0.0)
    for operation, count in counts.items():
        work["issue"] += count
        pipe = PIPE_OF.get(family(operation))
        if pipe is not None:
            passes = vector_width(operation) if pipe == "exchange" else 1
            work[pipe] += count * passes * rates.cycles(pipe)
    return {pipe: cycles * warps / 4 for pipe, cycles in work.items()}


def l2_bytes(rate: float) -> float:
    """Bytes a clock for one of 132 multiprocessors at 1.755 GHz that share ``rate`` TB/s."""
    return rate * 1e12 / (132 * 1.755e9)


def tile_of(
    counts: Counter[str],
    shape: Shape,
    size: int,
    dtype: str,
    rates: Rates,
    l2_rate: float = L2_RATE,
) -> Tile:
    """The tile at D = ``size``; ``counts``: of the epilogue; ``l2_rate`` in TB/s."""
    padded = -(-size // shape.depth) * shape.depth
    product = 2 * shape.rows * shape.cols * padded / rates.flop(dtype)
    loads = (shape.rows + shape.cols) * size * ITEMSIZE[dtype] / l2_bytes(l2_rate)
    return Tile(product, loads, pipe_cycles(counts, shape.warps, rates), shape.specialize)


def strip_rows(m: int, size: int, dtype: str, gpu: Gpu) -> int:
    """Rows of a strip of G at the default workspace."""
    return planned.strip_rows(gpu.workspace, m, size, ITEMSIZE[dtype], gpu.processors)


def strips(n: int, m: int, size: int, dtype: str, gpu: Gpu) -> Iterator[int]:
    """Heights of the strips of n rows."""
    step = strip_rows(m, size, dtype, gpu)
    for first in range(0, n, step):
        yield min(step, n - first)


def pass_ms(tile: Tile, shape: Shape, height: int, m: int, gpu: Gpu, stored: int) -> float:
    """One launch over ``height`` rows; ``stored`` bytes for each pair go to memory meanwhile."""
    tiles = -(-height // shape.rows) * -(-m // shape.cols)
    programs = gpu.processors * shape.per_processor
    rounds = -(-tiles // programs) * shape.per_processor
    return 1e3 * max(rounds * tile.cycles / gpu.clock, height * m * stored / gpu.memory)


def products_ms(height: int, m: int, size: int, dtype: str, gpu: Gpu) -> float:
    """dQ = G K and dK += G^T Q of a strip: each limited by cuBLAS or by memory, nothing cached."""
    item, wide = ITEMSIZE[dtype], ACCUMULATOR[dtype]
    compute = 2 * height * m * size / GEMM_FLOPS[dtype]
    both = height * m * item
    query = both + m * size * item + height * size * wide
    key = both + height * size * item + 2 * m * size * wide
    return 1e3 * sum(max(compute, moved / gpu.memory) for moved in (query, key))


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of a loss forward and backward."""

    reduce_ms: float
    weights_ms: float
    products_ms: float

    @property
    def total_ms(self) -> float:
        return self.reduce_ms + self.weights_ms + self.products_ms + LAUNCHES_MS


def predict(
    reduce: tuple[Tile, Shape] | None,
    weigh: tuple[Tile, Shape],
    n: int,
    size: int,
    dtype: str,
    gpu: Gpu,
) -> Prediction:
    """The passes and both products over all strips of N x N pairs; ``reduce`` is None where the
    weights' pass sums too.
    """
    heights = list(strips(n, n, size, dtype, gpu))
    item = ITEMSIZE[dtype]
    return Prediction(
        0.0 if reduce is None else sum(pass_ms(*reduce, height, n, gpu, 0) for height in heights),
        sum(pass_ms(*weigh, height, n, gpu, item) for height in heights),
        sum(products_ms(height, n, size, dtype, gpu) for height in heights),
    )


def tflops(units: int, n: int, size: int, ms: float) -> float:
    """Of ``units`` times 2 N^2 D flop."""
    return units * 2 * n * n * size / ms / 1e9
