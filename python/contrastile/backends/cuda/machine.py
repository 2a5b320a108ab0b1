"""The device that kernels are launched on, and the kernels that there are for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ... import native


@dataclass(frozen=True)
class Launcher:
    """The compiled module, with what its launches for one run have in common."""

    kernels: Any
    element: Any
    target: Any


@dataclass(frozen=True)
class Machine:
    """``kernels`` is the compiled module; the rest describes one device."""

    kernels: Any
    family: str
    index: int
    processors: int
    shared_bytes: int

    def launcher(self, dtype: torch.dtype) -> Launcher:
        """For operands of a dtype, on torch's current stream."""
        name = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "tf32"}[dtype]
        family = "sm80" if dtype == torch.float32 else self.family
        target = self.kernels.Target(
            getattr(self.kernels.Family, family),
            self.index,
            self.processors,
            self.shared_bytes,
            self._stream(),
        )
        return Launcher(self.kernels, getattr(self.kernels.Element, name), target)

    def _stream(self) -> int:
        return int(torch.cuda.current_stream(self.index).cuda_stream)


def library() -> Any:
    """The compiled kernels, or None where they were not built."""
    return native.cuda_kernels()


def has_gpu() -> bool:
    """Whether torch finds any that could run them."""
    return torch.version.hip is None and torch.cuda.is_available()


def machine_of(device: torch.device) -> Machine | str:
    """The machine that tensors on ``device`` are on, or why there are no kernels for it."""
    if device.type != "cuda" or torch.version.hip is not None:
        return f"the embeddings are on {device}, not on an NVIDIA GPU"
    return _of_gpu(device.index if device.index is not None else torch.cuda.current_device())


@cache
def _of_gpu(index: int) -> Machine | str:
    properties = torch.cuda.get_device_properties(index)
    archs, kernels = native.cuda_archs().split(), library()
    reason = why_not_compiled(properties.major, properties.minor, archs)
    reason = reason or why_not_driven(properties.major, archs, *kernels.versions())
    if reason is not None:
        return reason
    hopper = properties.major == 9 and "90a" in archs
    return Machine(
        kernels,
        "sm90" if hopper else "sm80",
        index,
        properties.multi_processor_count,
        kernels.shared_bytes(index),
    )


def why_not_compiled(major: int, minor: int, archs: list[str]) -> str | None:
    """None, or why kernels built for ``archs`` do not run on a device of that capability.

    Of the oldest architecture there is PTX too, which later ones compile when it is loaded.
    """
    oldest = min((int(arch.removesuffix("a")) for arch in archs), default=None)
    if oldest is None or 10 * major + minor >= oldest:
        return None
    built = " ".join(archs)
    return f"compute capability {major}.{minor}, and the kernels were built for {built}"


def why_not_driven(major: int, archs: list[str], runtime: int, driver: int) -> str | None:
    """None, or why the driver does not take kernels that were built with this version of CUDA.

    A driver takes what an older toolkit or one of its own major version made for a device; PTX,
    which it has to compile, not of a newer version at all.
    """
    compiled_for = {int(arch.removesuffix("a")) // 10 for arch in archs}
    by_ptx = major not in compiled_for
    if runtime // 1000 <= driver // 1000 and not (by_ptx and runtime > driver):
        return None
    built, taken = (f"{version // 1000}.{version % 1000 // 10}" for version in (runtime, driver))
    return (
        f"the kernels were built with CUDA {built}, and the NVIDIA driver takes no newer than "
        f"{taken}: update the driver, or install contrastile again with a CUDA toolkit of {taken} "
        "or older (CUDA_HOME)"
    )
