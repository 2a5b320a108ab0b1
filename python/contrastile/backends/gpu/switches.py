"""torch's own switches, which alone decide how exactly fp32 is multiplied."""

from __future__ import annotations

import torch


def tf32_allowed() -> bool:
    """From torch 2.9 on the switch has a second name, and reading the first may raise."""
    matmul = torch.backends.cuda.matmul
    chosen = getattr(matmul, "fp32_precision", None)
    return chosen == "tf32" if isinstance(chosen, str) else bool(matmul.allow_tf32)
