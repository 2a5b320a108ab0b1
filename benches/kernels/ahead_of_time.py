"""Kernels compiled for GPUs that are not there: what each would take of the machine.

A loss is called on CPU tensors with a driver that names the wanted architecture. Every launch then
goes through Triton's real binder and compiler, with the arguments of a real call, and stops before
the GPU: the compiled kernel is recorded, nothing runs, and what the call returns means nothing.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from contrastile.backends.triton import backend as triton_backend
from contrastile.backends.triton.device import Device
from contrastile.backends.triton.launch import forget
from contrastile.engine.forward import plans_of
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_86": GPUTarget("cuda", 86, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx90a": GPUTarget("hip", "gfx90a", 64),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Per block of threads, in bytes; of NVIDIA's the driver keeps one KiB.
SHARED_LIMIT = {
    "sm_80": 166_912,
    "sm_86": 101_376,
    "sm_89": 101_376,
    "sm_90": 232_448,
    "sm_100": 232_448,
    "sm_120": 101_376,
    "gfx90a": 65_536,
    "gfx942": 65_536,
}
# Multiprocessors of the largest such GPU.
PROCESSORS = {
    "sm_80": 108,
    "sm_86": 84,
    "sm_89": 142,
    "sm_90": 132,
    "sm_100": 148,
    "sm_120": 188,
    "gfx90a": 110,
    "gfx942": 304,
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Driver:
    """Names a target, and has no device."""

    def __init__(self, arch: str) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self.arch]

    def get_current_device(self) -> str:
        # Compiled kernels are cached by device: one for each architecture.
        return self.arch

    def get_current_stream(self, device: object = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    @staticmethod
    def is_active() -> bool:
        return True


@dataclass(frozen=True)
class Compiled:
    """One kernel as compiled: registers a thread, bytes of stack (spills) and of shared memory."""

    name: str
    arch: str
    constants: dict[str, Any]
    registers: int
    stack: int
    shared: int
    warps: int
    text: str
    instructions: Counter[str]

    def count(self, *patterns: str) -> int:
        """Occurrences in the PTX (of AMD: the assembly) of any of the patterns."""
        return sum(len(re.findall(pattern, self.text)) for pattern in patterns)


@contextmanager
def recording(arch: str) -> Iterator[list[tuple[str, dict[str, Any], Any]]]:
    """Every launch inside is compiled for ``arch`` instead, and recorded once.

    The driver stays afterwards: a process that compiles for absent GPUs launches on none.
    """
    found: list[tuple[str, dict[str, Any], Any]] = []
    seen: set[int] = set()
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        if id(kernel) not in seen:
            seen.add(id(kernel))
            named = {**dict(zip(self.arg_names, args, strict=False)), **options}
            constants = {k: v for k, v in named.items() if not isinstance(v, torch.Tensor)}
            found.append((self.fn.__name__, constants, kernel))
        return kernel

    def stop(self: CompiledKernel, grid: object) -> Callable[..., None]:
        """A launch of a kernel that the binder chose before."""
        return lambda *arguments: None

    # What was found for another architecture, or was launched before and would not be again.
    forget()
    plans_of.cache_clear()
    device = Device(arch, PROCESSORS[arch])
    triton.runtime.driver.set_active(Driver(arch))
    with (
        mock.patch.object(JITFunction, "run", compile_only),
        mock.patch.object(CompiledKernel, "__getitem__", stop),
        mock.patch.object(Device, "of", staticmethod(lambda _: device)),
        mock.patch.object(triton_backend, "interpreting", lambda: True),
        mock.patch.object(triton_backend, "interprets_bf16", lambda: True),
    ):
        yield found


def compile_for(arch: str, call: Callable[[], object]) -> list[Compiled]:
    """The kernels that ``call`` launches."""
    with recording(arch) as found:
        call()
    return [_describe(arch, *each) for each in found]


def _describe(arch: str, name: str, constants: dict[str, Any], kernel: Any) -> Compiled:
    meta = kernel.metadata
    if "amdgcn" in kernel.asm:
        text = kernel.asm["amdgcn"]
        registers, stack = (_amd(text, key) for key in (r"\.vgpr_count", r"\.vgpr_spill_count"))
        instructions = Counter(re.findall(r"^\s+([a-z]\w+)", text, re.M))
    else:
        text = kernel.asm["ptx"]
        registers, stack, instructions = _nvidia(kernel.asm["cubin"])
    return Compiled(
        name, arch, constants, registers, stack, meta.shared, meta.num_warps, text, instructions
    )


def _amd(text: str, key: str) -> int:
    found = re.search(key + r":?\s+(\d+)", text)
    return int(found[1]) if found else 0


def _nvidia(cubin: bytes) -> tuple[int, int, Counter[str]]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        sass = _tool("nvdisasm", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump told no resource usage: {usage[-500:]}")
    operations = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_.]+)", sass)
    return int(found[1]), int(found[2]), Counter(operations)


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run(
        [str(TOOLS / name), *arguments], capture_output=True, text=True, check=True
    ).stdout
