"""How operands are multiplied: torch's own switches decide, never a default of Triton's."""

from __future__ import annotations

import torch

from ..switches import tf32_allowed


def precision(dtype: torch.dtype, arch: str) -> str:
    """How fp32 operands are multiplied: as torch.mm would, where Triton has tf32."""
    tf32 = dtype == torch.float32 and _has_tf32(arch) and tf32_allowed()
    return "tf32" if tf32 else "ieee"


def uses_tensor_cores(dtype: torch.dtype, arch: str) -> bool:
    """Whether products are fast enough that loads and stores count beside them."""
    return dtype.itemsize == 2 or precision(dtype, arch) == "tf32"


def _has_tf32(arch: str) -> bool:
    """Triton refuses to compile tf32 for any AMD GPU but gfx942."""
    return not arch.startswith("gfx") or arch == "gfx942"
