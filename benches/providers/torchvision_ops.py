"""Lets a torchvision built for CUDA import beside a CPU-only torch.

Its compiled operators cannot load there, and it fails while it attaches fake kernels to two of
them. open_clip, lightly and transformers import torchvision, though their losses never call it.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch


@cache
def import_torchvision() -> torch.library.Library | None:
    """Imports torchvision if installed; returns what must stay alive for that to last."""
    if find_spec("torchvision") is None:
        return None
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    else:
        return None
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        operators.define(schema)
    import_module("torchvision")
    return operators
