"""What the CUDA backend can compute, and the strips it does so in."""

from __future__ import annotations

import torch

from ... import native
from ...engine.plan import Keeping, Tile
from ...problem.channels import Phi
from ...problem.spec import Sizes, Spec
from ..gpu.backend import GpuBackend
from ..gpu.kernels import Kernels
from ..gpu.scene import Scene
from ..gpu.strips import strip_tile
from .machine import has_gpu, library, machine_of
from .programs import why_not_encodable

# Dot products are computed again: the kernels have no other way to their weights.
NEVER = Keeping(2**62)
# A log-sum-exp, and the functions that are summed.
KNOWN = (None, Phi.SOFTPLUS, Phi.RELU, Phi.IDENTITY, Phi.SQUARE)


class CudaBackend(GpuBackend):
    """Tensor cores only: half precision, and fp32 where torch's switch allows TF32.

    Nothing is added to it until a GPU has shown that it is worth it: what it does not know of a
    problem is a reason to refuse it.
    """

    name = "cuda"

    def available(self) -> str | None:
        """None, or why there are no kernels, or nothing to run them."""
        if library() is None:
            return f"not built: {native.why_no_cuda()}"
        return None if has_gpu() else "torch finds no NVIDIA GPU"

    def supports(self, spec: Spec, sizes: Sizes) -> str | None:
        """None, or why it cannot compute this problem."""
        machine = machine_of(sizes.device)
        if isinstance(machine, str):
            return machine
        if sizes.dtype == torch.float64:
            return "it has no fp64"
        if self.operand_dtype(spec, sizes) == torch.float32 and not self.allows_tf32():
            return "fp32 only where torch allows TF32 (torch.backends.cuda.matmul.allow_tf32)"
        if spec.ranks:
            return "it does not count ranks"
        if spec.gaps:
            return "it does not sum scores, of which the gap of several positives is made"
        kinds = {stat.phi is None for stat in spec.stats}
        if len(kinds) > 1:
            return "it has no log-sum-exps beside sums of a function"
        unknown = [stat.phi for stat in spec.stats if stat.phi not in KNOWN]
        if unknown:
            return f"it does not know the functions {unknown}"
        return why_not_encodable(spec.stats)

    def supports_planes(self) -> str | None:
        """Frozen: nothing new until a GPU has shown that its kernels are worth it."""
        return "it has no planes; take Triton"

    def supports_selections(self) -> str | None:
        """Frozen, as for planes."""
        return "it picks no columns; take Triton"

    def keeping(self, spec: Spec, sizes: Sizes) -> Keeping:
        """Nothing."""
        return NEVER

    def tile(self, spec: Spec, sizes: Sizes) -> Tile:
        """All columns, and as many rows as the workspace has room for."""
        machine = machine_of(sizes.device)
        assert not isinstance(machine, str), machine
        return strip_tile(spec, sizes, self.operand_dtype(spec, sizes), machine.processors)

    def kernels(self, scene: Scene) -> Kernels:
        """Bound to a job."""
        from .kernels import CudaKernels

        return CudaKernels(scene)
