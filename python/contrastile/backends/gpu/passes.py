"""The passes over blocks on a GPU, for whatever kernels it has."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.plan import Block
from ...engine.rules import RULES
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
        self._settled = kernels.settles_only_block and scene.general_block
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
        return _with_loss(scene, kernels, memory, slopes=True)


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

    def __init__(self, scene: Scene, kernels: SummingKernels, products: bool) -> None:
        self._summing, self.memory = kernels, Memory.of(scene, False)
        with scene.on_device():
            kernels.prepare(self.memory)
            slopes = kernels.slopes_of_sums(self.memory)
        super().__init__(scene, kernels, self.memory.state(scene), slopes, products)

    def weights(self, block: Block) -> Tensor:
        """``unit`` times G of the block, whose sums are added; valid until the next call."""
        output = self._output(block)
        with self.scene.on_device():
            self._summing.weigh_and_sum(block, output, self.state, self.entries, self.memory)
        return output.weights

    def settle(self) -> Reduced:
        """The stats of all blocks."""
        return _with_loss(self.scene, self.kernels, self.memory, slopes=False)


def _with_loss(scene: Scene, kernels: Kernels, memory: Memory, slopes: bool) -> Reduced:
    """What leaves, and the loss of rows where it is made of indexed positives."""
    reduced, rule = memory.reduced(scene), scene.spec.rule
    if rule is None or rule.name not in RULES:
        return reduced
    with scene.on_device():
        made = kernels.row_loss(memory, reduced.rows, reduced.cols, slopes)
    return reduced if made is None else reduced._replace(loss=made[0], slopes=made[1])
