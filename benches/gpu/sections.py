"""All sections, the most important first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import (
    errors,
    exact,
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
    """

    name: str
    seconds: float
    run: Callable[[Settings], Outcome]
    what: str


# Together less than the default limit of a call leaves, see ``supervise``.
LIST = (
    Section("environment", 10, machine.environment_section, "where and with what"),
    Section("errors", 125, errors.errors_section, "error at most that of the plain formula"),
    Section("repeats", 25, exact.repeats_section, "the same bits, every time"),
    Section("graph", 35, exact.graph_section, "captured in a CUDA graph, replayed on new data"),
    Section("streams", 10, exact.streams_section, "two streams at once"),
    Section("devices", 5, exact.devices_section, "tensors away from the current device"),
    Section("oom", 15, memory.oom_section, "works again after running out of memory"),
    Section("large", 25, large.large_section, "more than 2^31 pairs, against fp64"),
    Section("memory", 40, memory.memory_section, "extra bytes grow with N, not with N^2"),
    Section("speed", 100, speed.speed_section, "a step over sizes, beside its targets"),
    Section("host", 15, host.host_section, "what Python costs a call"),
    Section("gemm", 10, gemm.gemm_section, "what matrix products reach here"),
    Section("specialised", 40, specialised.specialised_section, "warp-specialised weights"),
    Section("sanitizer", 40, sanitizer.sanitizer_section, "compute-sanitizer on tiny shapes"),
    Section("peers", 15, peers.peers_section, "other libraries, installed or as wheels"),
)
SECTIONS = {section.name: section for section in LIST}
