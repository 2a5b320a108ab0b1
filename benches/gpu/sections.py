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
    specialised,
    speed,
)
from .record import Outcome
from .settings import Settings


@dataclass(frozen=True)
class Section:
    """
    Args:
        seconds: after which it starts nothing new; a little later it is stopped.
        what: it shows.
        renews: what comes after it runs in a new process.
        built: it needs what the section ``build`` makes.
    """

    name: str
    seconds: float
    run: Callable[[Settings], Outcome]
    what: str
    renews: bool = False
    built: bool = False


# Together less than the default limit of a call leaves, see ``supervise``.
LIST = (
    Section("environment", 5, machine.environment_section, "where and with what"),
    Section(extension.BUILD, 60, extension.build_section, "CUDA kernels, built here", renews=True),
    Section("errors", 90, errors.errors_section, "error at most that of the plain formula"),
    Section("cuda-errors", 30, cuda.errors_of_cuda, "the same of the backend cuda", built=True),
    Section("repeats", 20, exact.repeats_section, "the same bits, every time"),
    Section("cuda-repeats", 10, cuda.repeats_of_cuda, "the same of the backend cuda", built=True),
    Section("graph", 25, exact.graph_section, "captured in a CUDA graph, replayed on new data"),
    Section("cuda-graph", 8, cuda.graph_of_cuda, "the same of the backend cuda", built=True),
    Section("streams", 5, exact.streams_section, "two streams at once"),
    Section("cuda-streams", 5, cuda.streams_of_cuda, "the same of the backend cuda", built=True),
    Section("devices", 5, exact.devices_section, "tensors away from the current device"),
    Section("oom", 10, memory.oom_section, "works again after running out of memory"),
    Section("large", 20, large.large_section, "more than 2^31 pairs, against fp64"),
    Section("cuda-large", 10, cuda.large_of_cuda, "the same of the backend cuda", built=True),
    Section("memory", 40, memory.memory_section, "extra bytes grow with N, not with N^2"),
    Section("cuda-memory", 8, cuda.memory_of_cuda, "the same of the backend cuda", built=True),
    Section("speed", 70, speed.speed_section, "a step over sizes, beside its targets"),
    Section("cuda-speed", 25, cuda.beside_of_cuda, "its passes, beside Triton's", built=True),
    Section("host", 10, host.host_section, "what Python costs a call"),
    Section("gemm", 7, gemm.gemm_section, "what matrix products reach here"),
    Section("specialised", 24, specialised.specialised_section, "warp-specialised weights"),
    Section("sanitizer", 23, sanitizer.sanitizer_section, "compute-sanitizer on tiny shapes"),
    Section("peers", 10, peers.peers_section, "other libraries, installed or as wheels"),
)
SECTIONS = {section.name: section for section in LIST}
