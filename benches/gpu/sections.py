"""All sections, the most important first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import (
    cuda,
    errors,
    exact,
    extension,
    gemm,
    host,
    large,
    machine,
    memory,
    peers,
    sanitizer,
    smoke,
    specialised,
    speed,
)
from .machine import installed
from .record import Outcome
from .settings import Settings
from .supervise import Step


@dataclass(frozen=True)
class Section:
    """
    Args:
        quick: seconds in the quick pass, after which it starts nothing new there; 0: not in it.
        whole: seconds in the pass after it; 0: the quick pass does all of it.
        what: it shows.
        renews: what comes after it runs in a new process.
        built: it needs what the section ``build`` makes.
    """

    name: str
    quick: float
    whole: float
    run: Callable[[Settings], Outcome]
    what: str
    renews: bool = False
    built: bool = False

    def step(self, quick: bool, until: float) -> Step:
        """It in a pass that ends after so many seconds."""
        seconds = self.quick if quick else self.whole or self.quick
        return Step(self.name, seconds, until, quick, self.renews)


# In the order of the second pass. Seconds of both passes together are less than the default limit
# of a call leaves, see ``supervise``.
LIST = (
    Section("environment", 5, 0, machine.environment_section, "where and with what"),
    Section("smoke", 12, 0, smoke.smoke_section, "is bf16 clip_loss right at all"),
    Section(
        extension.BUILD, 40, 0, extension.build_section, "CUDA kernels, made here", renews=True
    ),
    Section("cuda-errors", 12, 22, cuda.errors_of_cuda, "errors of the backend cuda", built=True),
    Section("cuda-repeats", 6, 15, cuda.repeats_of_cuda, "no arrival lost or doubled", built=True),
    Section("cuda-speed", 10, 18, cuda.beside_of_cuda, "its passes, beside Triton's", built=True),
    Section("repeats", 0, 18, exact.repeats_section, "the same bits, every time"),
    Section("graph", 0, 22, exact.graph_section, "captured in a CUDA graph, replayed on new data"),
    Section("cuda-graph", 0, 7, cuda.graph_of_cuda, "the same of the backend cuda", built=True),
    Section("streams", 0, 5, exact.streams_section, "two streams at once"),
    Section("cuda-streams", 0, 5, cuda.streams_of_cuda, "the same of the backend cuda", built=True),
    Section("devices", 0, 5, exact.devices_section, "tensors away from the current device"),
    Section("errors", 40, 50, errors.errors_section, "error at most that of the plain formula"),
    Section("speed", 45, 45, speed.speed_section, "a step over sizes, beside its targets"),
    Section("large", 0, 18, large.large_section, "more than 2^31 pairs, against fp64"),
    Section("cuda-large", 0, 9, cuda.large_of_cuda, "the same of the backend cuda", built=True),
    Section("memory", 0, 27, memory.memory_section, "extra bytes grow with N, not with N^2"),
    Section("cuda-memory", 0, 7, cuda.memory_of_cuda, "the same of the backend cuda", built=True),
    Section("oom", 0, 9, memory.oom_section, "works again after running out of memory"),
    Section("host", 0, 8, host.host_section, "what Python costs a call"),
    Section("gemm", 0, 5, gemm.gemm_section, "what matrix products reach here"),
    Section("sanitizer", 0, 20, sanitizer.sanitizer_section, "compute-sanitizer on tiny shapes"),
    Section("peers", 0, 15, peers.peers_section, "other libraries, installed or as wheels"),
    Section("specialised", 0, 20, specialised.specialised_section, "warp-specialised weights"),
)
SECTIONS = {section.name: section for section in LIST}
# In the order of the first pass: is it right, how fast is it, and then the same of CUDA.
QUICK: tuple[str, ...] = ("environment", "smoke", "errors", "speed", extension.BUILD)
QUICK += ("cuda-errors", "cuda-repeats", "cuda-speed")


def usual() -> list[str]:
    """All sections but the one that needs a newer Triton, where that is not installed."""
    newer = specialised.can_compile(installed("triton"))
    return [name for name in SECTIONS if newer or name != "specialised"]
