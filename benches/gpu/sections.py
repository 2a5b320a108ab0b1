"""All sections, the most important first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import errors, exact, gemm, host, large, machine, memory, peers, sanitizer, speed
from .record import Outcome
from .settings import Settings


@dataclass(frozen=True)
class Section:
    """
    Args:
        seconds: after which it starts nothing new; a little later it is stopped.
        what: it shows.
    """

    name: str
    seconds: float
    run: Callable[[Settings], Outcome]
    what: str


LIST = (
    Section("environment", 20, machine.environment_section, "where and with what"),
    Section("errors", 140, errors.errors_section, "error at most that of the plain formula"),
    Section("repeats", 40, exact.repeats_section, "the same bits, every time"),
    Section("graph", 40, exact.graph_section, "captured in a CUDA graph, replayed on new data"),
    Section("streams", 20, exact.streams_section, "two streams at once"),
    Section("devices", 20, exact.devices_section, "tensors away from the current device"),
    Section("oom", 20, memory.oom_section, "works again after running out of memory"),
    Section("large", 50, large.large_section, "more than 2^31 pairs, against fp64"),
    Section("memory", 40, memory.memory_section, "extra bytes grow with N, not with N^2"),
    Section("gemm", 15, gemm.gemm_section, "what matrix products reach here"),
    Section("speed", 150, speed.speed_section, "clip_loss and siglip_loss over sizes"),
    Section("host", 20, host.host_section, "what Python costs a call"),
    Section("sanitizer", 90, sanitizer.sanitizer_section, "compute-sanitizer on tiny shapes"),
    Section("peers", 30, peers.peers_section, "other libraries, where installed"),
)
SECTIONS = {section.name: section for section in LIST}
