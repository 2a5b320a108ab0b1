"""What the CUDA backend can compute, and the strips it does so in."""

from __future__ import annotations

import torch

from ... import native
from ...engine.blocks import Keeping, Tile
from ...engine.run import Kernel, Run
from ...problem import Problem
from ..strips import operand_dtype, strip_tile
from ..switches import tf32_allowed
from .machine import has_gpu, library, machine_of
from .programs import why_not_encodable

# Dot products are computed again: the kernels have no other way to their weights.
NEVER = Keeping(2**62)


class CudaBackend:
    """Tensor cores only: half precision, and fp32 where torch's switch allows TF32."""

    name = "cuda"
    reads_scale = False
    forms_coefficients = True
    settles_strips = False

    def available(self) -> str | None:
        if library() is None:
            return f"not built: {native.why_no_cuda()}"
        return None if has_gpu() else "torch finds no NVIDIA GPU"

    def supports(self, problem: Problem) -> str | None:
        machine = machine_of(problem.device)
        if isinstance(machine, str):
            return machine
        if problem.dtype == torch.float64:
            return "it has no fp64"
        if self.operand_dtype(problem) == torch.float32 and not tf32_allowed():
            return "fp32 only where torch allows TF32 (torch.backends.cuda.matmul.allow_tf32)"
        if problem.ranks:
            return "it does not count ranks"
        if problem.gaps:
            return "it does not sum scores, of which the gap of several positives is made"
        return why_not_encodable(problem.reductions)

    def operand_dtype(self, problem: Problem) -> torch.dtype:
        return operand_dtype(problem)

    def keeping(self, problem: Problem) -> Keeping:
        return NEVER

    def tile(self, problem: Problem) -> Tile:
        machine = machine_of(problem.device)
        assert not isinstance(machine, str), machine
        return strip_tile(problem, self.operand_dtype(problem), machine.processors)

    def bind(self, run: Run) -> Kernel:
        from .kernel import CudaKernel

        return CudaKernel(run)
