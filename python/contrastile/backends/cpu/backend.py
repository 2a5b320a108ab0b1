"""The CPU backend: what it answers, and which pass it takes."""

from __future__ import annotations

import torch

from ... import native
from ...engine.job import BlockLoss, Job, Reducer, ReducingWeigher, Weigher
from ...engine.picked import Selector
from ...engine.plan import CPU_KEEPING, Keeping, Tile
from ...engine.spans import WHOLE
from ...engine.state import State, Upstream
from ...engine.sweep.block_math import BlockMath
from ...problem.advice import advise
from ...problem.spec import NONE, Sizes, Spec
from ..torch_block_math import TorchBlockMath
from ..torch_pass import TorchReducer
from ..torch_select import TorchSelector
from ..torch_weights import TorchWeigher
from .block_loss import CompiledBlockLoss
from .block_math import NativeBlockMath
from .reducer import NativeReducer
from .select import NativeSelector
from .weigher import NativeWeigher

# Scores from which on a step takes so long that the compiled pass is worth a compiler.
WORTH_BUILDING = 512 * 512


class CpuBackend:
    """Blocked, threaded as torch is, fp32 and fp64 arithmetic, half precision inputs widened.

    Without the extension a plain torch pass does the same work on the same blocks.
    """

    name = "cpu"

    reads_scale = True
    settles_strips = True
    weighs_at_once = False
    scales_upstream = False
    has_forms = False

    def available(self) -> str | None:
        return None

    def supports(self, spec: Spec, sizes: Sizes) -> str | None:
        if sizes.device.type != "cpu":
            return f"the embeddings are on {sizes.device}, not on the CPU"
        return None

    def supports_planes(self) -> str | None:
        return None

    def block_math(self, sizes: Sizes) -> BlockMath:
        module = native.load()
        return TorchBlockMath() if module is None else NativeBlockMath(module, sizes.dtype)

    def supports_selections(self) -> str | None:
        return None

    def selector(self, job: Job) -> Selector:
        module = native.load()
        return TorchSelector(job) if module is None else NativeSelector(job, module)

    def allows_tf32(self) -> bool:
        return False

    def tile(self, spec: Spec, sizes: Sizes) -> Tile:
        # Measured at N = 8192, D = 64 to 512: 1024 x 2048 is within 3 % of the best of nine shapes.
        # In a triangle, D = 256, 1024 x 1024 took 0.85 times as long as 512 x 2048.
        return Tile(1024, 1024 if spec.triangle else 2048)

    def keeping(self, spec: Spec, sizes: Sizes) -> Keeping:
        return CPU_KEEPING

    def operand_dtype(self, spec: Spec, sizes: Sizes) -> torch.dtype:
        return sizes.dtype

    def reducer(self, job: Job) -> Reducer:
        module = native.load()
        if module is None:
            _advise_to_build(job.sizes)
            return TorchReducer(job)
        return NativeReducer(job, module)

    def weigher(
        self, job: Job, state: State, upstream: Upstream, products: bool, rows: slice = WHOLE
    ) -> Weigher:
        module = native.load()
        if module is None:
            return TorchWeigher(job, state, upstream, products, rows)
        return NativeWeigher(job, module, state, upstream, products, rows)

    def block_loss(self, spec: Spec, sizes: Sizes) -> BlockLoss | None:
        module, rule = native.load(), spec.rule
        if module is None or rule is None:
            return None
        gaps = spec.row_counts, spec.col_counts
        if gaps not in ((NONE, NONE), (rule.row_count, rule.col_count)):
            return None
        return CompiledBlockLoss(module, spec, sizes, rule)

    def reducing_weigher(self, job: Job, products: bool) -> ReducingWeigher | None:
        return None


def _advise_to_build(sizes: Sizes) -> None:
    """Say, once a process, that the extension is missing."""
    if sizes.n * sizes.m >= WORTH_BUILDING:
        advise(
            "contrastile",
            "no extension",
            "the compiled pass was not built, so losses on the CPU run in plain torch and take "
            "longer; install again where a C++17 compiler is found (g++ or clang++), and "
            "`contrastile doctor` says what is there",
        )
