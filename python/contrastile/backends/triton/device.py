"""What launches depend on: the architecture and the number of multiprocessors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Device:
    """``arch`` as compilers name it ("sm_90", "gfx942"), or "interpreter"."""

    arch: str
    processors: int

    @staticmethod
    def of(device: torch.device) -> Device:
        """The device that tensors on ``device`` are computed on."""
        if device.type != "cuda":
            return Device("interpreter", 2)
        return _of_gpu(device.index if device.index is not None else torch.cuda.current_device())


@cache
def _of_gpu(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        return Device(properties.gcnArchName.split(":")[0], properties.multi_processor_count)
    return Device(f"sm_{properties.major}{properties.minor}", properties.multi_processor_count)
