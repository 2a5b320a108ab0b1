"""What the Triton backend can compute, and the strips it does so in."""

from __future__ import annotations

import importlib.util

import torch

from ...engine.blocks import Keeping, Tile
from ...engine.run import Kernel, Run
from ...problem import Phi, Problem, Term
from .device import Device
from .precision import uses_tensor_cores

# Partial sums of a tile beside its weights: 4 bytes for each 128 rows and each 128 columns.
PARTIALS = 8 / 128
# Predicted for an H200: 10 bytes a score to write, read and weigh kept dot products take 2.5 ps of
# its memory; to compute them again takes 2 D flop, at 600 TFLOP/s 2.6 ps.
KEEP_FROM = 768


def interpreting() -> bool:
    """Whether Triton was told to run kernels in its interpreter, on the CPU."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


class TritonBackend:
    """One source for NVIDIA and AMD GPUs; on the CPU by Triton's interpreter, for tests."""

    name = "triton"
    reads_scale = False
    forms_coefficients = True
    settles_strips = False

    def available(self) -> str | None:
        if importlib.util.find_spec("triton") is None:
            return "the package triton is not installed"
        return None

    def supports(self, problem: Problem) -> str | None:
        if problem.device.type == "cuda" or (problem.device.type == "cpu" and interpreting()):
            return None
        return f"the embeddings are on {problem.device}, not on a GPU"

    def operand_dtype(self, problem: Problem) -> torch.dtype:
        half = problem.embedding_dtype in (torch.float16, torch.bfloat16)
        return problem.embedding_dtype if half and not _unbounded(problem) else problem.dtype

    def keeping(self, problem: Problem) -> Keeping:
        """Of fp32 always: 12 bytes a score, against products outside the tensor cores."""
        dtype, arch = self.operand_dtype(problem), Device.of(problem.device).arch
        return Keeping(KEEP_FROM if uses_tensor_cores(dtype, arch) else 0)

    def tile(self, problem: Problem) -> Tile:
        """All columns, and as many rows as the workspace has room for.

        Rounded down to whole waves of the product G K, where a last wave would leave most of the
        device idle, or else to whole tiles.
        """
        itemsize = self.operand_dtype(problem).itemsize + PARTIALS
        room = int(problem.workspace / (itemsize * max(problem.m, 1)))
        wave = Device.of(problem.device).wave(problem.d)
        step = wave if room >= wave else 128
        rows = room // step * step if room >= step else room
        return Tile(max(rows, 1), max(problem.m, 1), itemsize)

    def bind(self, run: Run) -> Kernel:
        from .kernel import TritonKernel

        return TritonKernel(run)


def _unbounded(problem: Problem) -> bool:
    """Whether G may be any multiple of the upstream gradient, too much for half precision."""
    return any(isinstance(r, Term) and r.phi is Phi.SQUARE for r in problem.reductions)
