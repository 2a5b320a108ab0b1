"""The device that kernels are launched on, and the kernels that there are for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ... import native


@dataclass(frozen=True)
class Machine:
    """``kernels`` is the compiled module; the rest describes one device."""

    kernels: Any
    family: str
    index: int
    processors: int
    shared_bytes: int

    def element(self, dtype: torch.dtype) -> Any:
        """What kernels call a dtype of operands."""
        name = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "tf32"}[dtype]
        return getattr(self.kernels.Element, name)

    def target(self, dtype: torch.dtype) -> Any:
        """The device and torch's current stream, for kernels of a dtype."""
        family = "sm80" if dtype == torch.float32 else self.family
        return self.kernels.Target(
            getattr(self.kernels.Family, family),
            self.index,
            self.processors,
            self.shared_bytes,
            self._stream(),
        )

    def _stream(self) -> int:
        return int(torch.cuda.current_stream(self.index).cuda_stream)


def library() -> Any:
    """The compiled kernels, or None where they were not built."""
    return native.cuda_kernels()


def machine_of(device: torch.device) -> Machine | str:
    """The machine that tensors on ``device`` are on, or why there are no kernels for it."""
    if device.type != "cuda" or torch.version.hip is not None:
        return f"the embeddings are on {device}, not on an NVIDIA GPU"
    return _of_gpu(device.index if device.index is not None else torch.cuda.current_device())


@cache
def _of_gpu(index: int) -> Machine | str:
    properties = torch.cuda.get_device_properties(index)
    if properties.major < 8:
        return f"compute capability {properties.major}.{properties.minor}, below 8.0"
    hopper = properties.major == 9 and "90a" in native.cuda_archs().split()
    kernels = library()
    return Machine(
        kernels,
        "sm90" if hopper else "sm80",
        index,
        properties.multi_processor_count,
        kernels.shared_bytes(index),
    )
