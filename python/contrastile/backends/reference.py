"""The reference backend: all of S at once, in plain torch. For those who debug, on any device."""

from __future__ import annotations

import torch

from ..engine.job import Job, ReducingWeigher
from ..engine.plan import CPU_KEEPING, Keeping, Tile
from ..engine.spans import WHOLE
from ..engine.state import State, Upstream
from ..engine.sweep.block_math import BlockMath
from ..problem.spec import Sizes, Spec
from .torch_block_math import TorchBlockMath
from .torch_pass import TorchReducer
from .torch_select import TorchSelector
from .torch_weights import TorchWeigher


class ReferenceBackend:
    """Dense: one block, N x M memory, any dtype up to fp64."""

    name = "reference"

    reads_scale = True
    settles_strips = True
    weighs_at_once = False
    scales_upstream = False
    has_forms = False

    def available(self) -> str | None:
        return None

    def supports(self, spec: Spec, sizes: Sizes) -> str | None:
        return None

    def supports_planes(self) -> str | None:
        return None

    def block_math(self, sizes: Sizes) -> BlockMath:
        return TorchBlockMath()

    def supports_selections(self) -> str | None:
        return None

    def selector(self, job: Job) -> TorchSelector:
        return TorchSelector(job)

    def allows_tf32(self) -> bool:
        return False

    def tile(self, spec: Spec, sizes: Sizes) -> Tile:
        return Tile(max(sizes.n, 1), max(sizes.m, 1))

    def keeping(self, spec: Spec, sizes: Sizes) -> Keeping:
        return CPU_KEEPING

    def operand_dtype(self, spec: Spec, sizes: Sizes) -> torch.dtype:
        return sizes.dtype

    def reducer(self, job: Job) -> TorchReducer:
        return TorchReducer(job)

    def weigher(
        self, job: Job, state: State, upstream: Upstream, products: bool, rows: slice = WHOLE
    ) -> TorchWeigher:
        return TorchWeigher(job, state, upstream, products, rows)

    def block_loss(self, spec: Spec, sizes: Sizes) -> None:
        return None

    def reducing_weigher(self, job: Job, products: bool) -> ReducingWeigher | None:
        return None
