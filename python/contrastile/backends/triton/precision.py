"""How operands are multiplied: torch's own switches decide, never a default of Triton's."""

from __future__ import annotations

import torch


def precision(dtype: torch.dtype, arch: str, tf32: bool) -> str:
    """How fp32 operands are multiplied: in tf32 if that is allowed, and where Triton has it."""
    return "tf32" if tf32 and dtype == torch.float32 and _has_tf32(arch) else "ieee"


def uses_tensor_cores(dtype: torch.dtype, arch: str, tf32: bool) -> bool:
    """Whether products are fast enough that loads and stores count beside them."""
    return dtype.itemsize == 2 or precision(dtype, arch, tf32) == "tf32"


def _has_tf32(arch: str) -> bool:
    """Triton refuses to compile tf32 for any AMD GPU but gfx942."""
    return not arch.startswith("gfx") or arch == "gfx942"
