"""The passes over blocks on a GPU, for whatever kernels it has."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.job import UpstreamOfPositives
from ...engine.plan import Block
from ...engine.spans import WHOLE
from ...engine.state import Reduced, State, Upstream
from .entries import Entries
from .forms import Form
from .kernels import Kernels, Output, SummingKernels
from .memory import Memory
from .scene import Scene
from .strips import StripMemory


class GpuReducer:
    """Reduces blocks; which form is right is settled on the device, without a wait."""

    def __init__(self, scene: Scene, kernels: Kernels) -> None:
        self.scene, self.kernels = scene, kernels
        self._settled = kernels.settles_only_block and scene.forms == (Form.GENERAL,)
        self.memory = Memory.of(scene, self._settled)
        with scene.on_device():
            kernels.prepare(self.memory)

    def reduce(self, block: Block) -> None:
        """Add the block's partial sums."""
        with self.scene.on_device():
            self.kernels.reduce(block, self.scene.forms[0], self.memory)

    def settle(self, rows: slice = WHOLE) -> Reduced:
        """Settle the shifts; where they failed, the device does every block over."""
        assert rows is WHOLE, "no strip is settled before all blocks are in"
        scene, kernels, memory = self.scene, self.kernels, self.memory
        with scene.on_device():
            if Form.FIXED in scene.forms:
                kernels.certify(memory)
                for block in scene.job.plan.blocks():
                    kernels.reduce(block, Form.GENERAL, memory)
            if scene.spec.log_sums and not self._settled:
                kernels.settle(memory)
        return memory.reduced(scene)


class GpuWeigher:
    """Writes G of one block after the other into the same memory."""

    def __init__(
        self, scene: Scene, kernels: Kernels, state: State, upstream: Upstream, products: bool
    ) -> None:
        sizes = scene.sizes
        self.scene, self.kernels, self.state = scene, kernels, state
        self.entries = Entries.of(scene.spec, state, upstream)
        with scene.on_device():
            self.unit = kernels.coefficients(state, self.entries)
        self._memory = StripMemory(scene.job)
        self._products: Tensor | None = None
        if products:
            self._products = torch.zeros(sizes.n, dtype=torch.float64, device=sizes.device)

    def weights(self, block: Block) -> Tensor:
        """``unit`` times G of the block; valid until the next call."""
        output = self._output(block)
        with self.scene.on_device():
            self.kernels.weigh(block, output, self.state, self.entries)
        return output.weights

    def products(self) -> Tensor | None:
        """Row sums of G_ij <q_i, k_j> over the blocks so far, fp64 [N], if they were asked for."""
        return self._products

    def _output(self, block: Block) -> Output:
        """Room for the weights of a block, in memory that every block uses again."""
        return Output(self._memory.strip(*block.shape), self.unit, self._products)


class GpuReducingWeigher(GpuWeigher):
    """Weights of sums of a function, whose upstream gradients are known before the sums."""

    def __init__(
        self, scene: Scene, kernels: SummingKernels, upstream: UpstreamOfPositives, products: bool
    ) -> None:
        self._summing, self.memory = kernels, Memory.of(scene, False)
        with scene.on_device():
            kernels.prepare(self.memory)
        positive = self.memory.positive
        assert positive is not None, "a loss of rows has positives"
        own = upstream(positive)
        super().__init__(scene, kernels, self.memory.state(scene), own, products)

    def weights(self, block: Block) -> Tensor:
        """``unit`` times G of the block, whose sums are added; valid until the next call."""
        output = self._output(block)
        with self.scene.on_device():
            self._summing.weigh_and_sum(block, output, self.state, self.entries, self.memory)
        return output.weights

    def settle(self) -> Reduced:
        """The stats of all blocks."""
        return self.memory.reduced(self.scene)
