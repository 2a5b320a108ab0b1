"""The reference backend: all of S at once, in plain torch. For those who debug, on any device."""

from __future__ import annotations

import torch

from ..engine.blocks import CPU_KEEPING, Keeping, Tile
from ..engine.run import Kernel, Run
from ..problem import Problem
from .torch_pass import TorchKernel


class ReferenceBackend:
    """Dense: one block, N x M memory, any dtype up to fp64."""

    name = "reference"

    reads_scale = True
    forms_coefficients = False
    settles_strips = True

    def available(self) -> str | None:
        return None

    def supports(self, problem: Problem) -> str | None:
        return None

    def tile(self, problem: Problem) -> Tile:
        return Tile(max(problem.n, 1), max(problem.m, 1))

    def keeping(self, problem: Problem) -> Keeping:
        return CPU_KEEPING

    def operand_dtype(self, problem: Problem) -> torch.dtype:
        return problem.dtype

    def bind(self, run: Run) -> Kernel:
        return TorchKernel(run)
