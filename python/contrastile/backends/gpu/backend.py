"""What the backends of GPUs answer alike."""

from __future__ import annotations

import torch

from ...engine.job import Job, ReducingWeigher
from ...engine.picked import Selector
from ...engine.spans import WHOLE
from ...engine.state import State, Upstream
from ...engine.sweep.block_math import BlockMath
from ...problem.spec import Sizes, Spec
from .kernels import Kernels
from .passes import GpuReducer, GpuWeigher
from .scene import Scene
from .strips import operand_dtype
from .switches import tf32_allowed


class GpuBackend:
    """A device backend says in :meth:`kernels` what is launched; when is the same for all."""

    reads_scale = False
    settles_strips = False
    weighs_at_once = False
    scales_upstream = False
    has_forms = True

    def kernels(self, scene: Scene) -> Kernels:
        """Bound to a job."""
        raise NotImplementedError(type(self).__name__)

    def supports_planes(self) -> str | None:
        """None, or why it cannot compute a sweep."""
        return None

    def block_math(self, sizes: Sizes) -> BlockMath:
        """Of a backend that has planes."""
        raise NotImplementedError(type(self).__name__)

    def supports_selections(self) -> str | None:
        """None, or why it cannot pick columns."""
        return "it picks no columns"

    def selector(self, job: Job) -> Selector:
        """Of a backend that picks columns."""
        raise NotImplementedError(type(self).__name__)

    def allows_tf32(self) -> bool:
        """As torch's own switch stands."""
        return tf32_allowed()

    def operand_dtype(self, spec: Spec, sizes: Sizes) -> torch.dtype:
        """The embeddings' half precision, if they have it."""
        return operand_dtype(spec, sizes)

    def reducer(self, job: Job) -> GpuReducer:
        """The sums of a forward pass."""
        scene = Scene.of(job)
        return GpuReducer(scene, self.kernels(scene))

    def weigher(
        self, job: Job, state: State, upstream: Upstream, products: bool, rows: slice = WHOLE
    ) -> GpuWeigher:
        """The weights for these upstream gradients."""
        assert rows is WHOLE, "no strip is settled before all blocks are in"
        scene = Scene.of(job)
        return GpuWeigher(scene, self.kernels(scene), state, upstream, products)

    def block_loss(self, spec: Spec, sizes: Sizes) -> None:
        """None: a launch is what costs there, and the kernels keep their own."""
        return None

    def reducing_weigher(self, job: Job, products: bool) -> ReducingWeigher | None:
        """None: sums and weights take a look at the scores each."""
        return None
