"""The whole GPU check without a GPU: real processes and files, tiny sections, a stub of torch.cuda.

Run as a script: ``rehearsal.py HOW FOLDER [ARGUMENTS]`` with arguments of ``benches/gpu_check.py``.
Processes are forks of this one, which has imported everything. HOW tells what kills them:

* ``nothing``;
* ``worker``: the process that computes, in the middle of every section once;
* ``all``: that and the one that watches it; then they are started again, and what is in the one
  JSON is reported.

FOLDER/done has a line for each cell that was computed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
from contrastile import clip_loss, nt_xent
from contrastile.backends.triton.device import Device
from contrastile.benches.gpu import (
    answers,
    cli,
    cuda,
    errors,
    exact,
    extension,
    gemm,
    host,
    large,
    leash,
    memory,
    peers,
    pool,
    sanitizer,
    smoke,
    specialised,
    speed,
    supervise,
)
from contrastile.benches.gpu.cells import attempt
from contrastile.benches.gpu.peer_calls import Peer
from contrastile.benches.gpu.record import CELL, MERGED, Outcome, Row, sources
from contrastile.benches.gpu.sections import SECTIONS
from contrastile.benches.gpu.settings import Settings
from contrastile.benches.naive import NAIVE

DONE = "done"
# Seconds to wait for the one JSON, and how many times slower this machine may be.
PATIENCE, SLOW = 60.0, 20
N, D = 24, 16
HEADLINE = (("clip_loss", N, D), ("siglip_loss", N, D))
SHAPE = errors.Shape(N, D)
CASES = [exact.Repeat(loss, N, D, torch.bfloat16) for loss in (clip_loss, nt_xent)]
SANITIZER = "#!/bin/sh\necho probe done\necho 'ERROR SUMMARY: 0 errors'\n"


class Event:
    """On a clock of its own: from one to the next it is a millisecond."""

    now = 0

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0

    def record(self) -> None:
        Event.now += 1
        self.at = Event.now

    def elapsed_time(self, other: Event) -> float:
        return float(other.at - self.at)


def nothing(*_: object) -> None:
    """Nobody has to wait for the CPU."""


PROPERTIES = SimpleNamespace(name="stub", major=9, minor=0, multi_processor_count=2)
CUDA = {
    "synchronize": nothing,
    "empty_cache": nothing,
    "reset_peak_memory_stats": nothing,
    "memory_allocated": lambda *_: 0,
    "max_memory_allocated": lambda *_: 1000,
    "mem_get_info": lambda *_: (2**36, 2**36),
    "get_device_properties": lambda *_: PROPERTIES,
    "get_device_capability": lambda *_: (9, 0),
    "device_count": lambda: 1,
    "Event": Event,
    "Stream": lambda *_: nullcontext(),
    "stream": lambda stream: stream,
}


def everywhere(name: str, value: object) -> None:
    """Replaces a function of the check in every module that imported it."""
    for module in list(sys.modules.values()):
        if module.__name__.startswith("contrastile.benches") and hasattr(module, name):
            setattr(module, name, value)


def one_by_one(
    function: Callable[[Any], Any], tasks: Sequence[Any], names: Sequence[str], settings: Settings
) -> Iterator[tuple[str, Any]]:
    """As ``pool.each`` in this process: a fork may not compute gradients after its parent did."""
    for name, task in zip(names, tasks, strict=True):
        row = attempt(partial(function, task))
        yield name, row if row is True or "error" not in row else (row["error"], row["traceback"])


def stub_device(folder: Path) -> None:
    """The CPU is taken for a GPU."""
    for name, value in CUDA.items():
        setattr(torch.cuda, name, value)
    tool = folder / "sanitizer"
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    everywhere("is_gpu", lambda device: True)
    everywhere("each", one_by_one)
    everywhere("kernels", lambda *_: {"reduce": [2.0, 1.0], "weigh": [3.0, 1.0], "mm": [1.0, 1.0]})
    pool.cells.__globals__["each"] = one_by_one
    exact.capture = lambda loss, inputs: lambda: exact.step(loss, inputs)
    memory.out_of_memory = lambda settings, inputs: True
    memory.fill = lambda device, margin: []
    gemm.into_fp32 = gemm.product
    sanitizer.find = lambda: str(tool)
    sanitizer.probe = nothing
    specialised.Device = SimpleNamespace(of=lambda device: Device("sm_90", 2))
    extension.unable = lambda settings: None
    speed.Compiled.build = lambda self, case: NAIVE[case.loss]
    speed.SECONDS = 0.0


def builder(place: Path, arch: str, seconds: float) -> str | None:
    """What is installed, as if it had been built."""
    found = find_spec("contrastile._C")
    if found is None or found.origin is None:
        return "contrastile is installed without its extension"
    (place / extension.MODULE).mkdir(parents=True)
    (place / extension.MODULE / Path(found.origin).name).symlink_to(found.origin)
    return None


def tiny_sections(backend: str) -> None:
    """Every section at a size that takes no time; those of CUDA with another backend."""

    def rules(settings: Settings) -> list[errors.Rule]:
        own = {"scales": (14.3,), "draws": 1, "device": settings.device}
        return [
            errors.Rule(loss, "bf16", SHAPE, backend=settings.backend, later=later, **own)
            for loss, later in (("clip_loss", False), ("siglip_loss", True), ("nt_xent", True))
        ]

    def judged(settings: Settings) -> Outcome:
        return errors.errors_section(settings, rules(settings))

    errors.all_rules = lambda device, backend: rules(Settings(device, backend))
    specialised.RULES = tuple(rules(Settings(torch.device("cpu"), backend))[:1])
    specialised.TIMED = ((N, D),)
    small = [large.Large(N, D, dtype) for dtype in (torch.float32, torch.bfloat16)]
    timed = {"sizes": (N, 8), "widths": (D,)}
    made_up = Peer("made-up", "json", {loss: lambda loss=loss: NAIVE[loss] for loss in NAIVE})
    cuda.HEADLINE = answers.HEADLINE = HEADLINE
    beside = partial(cuda.beside_section, **timed, backends=(backend, "reference"))
    runs: dict[str, Callable[[Settings], Outcome]] = {
        "smoke": partial(smoke.smoke_section, shape=SHAPE),
        "build": partial(extension.build_section, builder=builder),
        "cuda-errors": judged,
        "cuda-repeats": partial(cuda.repeats_section, cases=CASES, repeats=2, rounds=4),
        "cuda-speed": beside,
        "repeats": partial(exact.repeats_section, cases=CASES, repeats=2),
        "graph": partial(exact.graph_section, cases=CASES),
        "cuda-graph": partial(exact.graph_section, cases=CASES[:1]),
        "streams": partial(exact.streams_section, n=N, d=D, rounds=2),
        "cuda-streams": partial(exact.streams_section, n=N, d=D, rounds=2),
        "errors": judged,
        "speed": partial(speed.speed_section, **timed, headline=HEADLINE, profiled=HEADLINE),
        "large": partial(large.large_section, cases=small, sample=4),
        "cuda-large": partial(large.large_section, cases=small[:1], sample=4),
        "memory": partial(memory.memory_section, sizes=(N, 16, 8), d=D, huge=(N, D)),
        "cuda-memory": partial(memory.memory_section, sizes=(N, 16, 8), d=D, huge=None),
        "oom": partial(memory.oom_section, n=N, d=D),
        "host": partial(host.host_section, n=N, d=D, bursts=1),
        "gemm": partial(
            gemm.gemm_section, squares=(8, 16), keys=(N,), widths=(D,), strip_bytes=2**10
        ),
        "peers": partial(peers.peers_section, cases=HEADLINE, peers=[made_up]),
    }
    for name, run in runs.items():
        run = cuda.of_cuda(run, backend) if SECTIONS[name].built else run
        SECTIONS[name] = replace(SECTIONS[name], run=run)


@dataclass
class Fork:
    """A process as ``supervise`` wants it: a fork that runs ``main``."""

    pid: int
    stdin: IO[str]
    returncode: int = 0
    ended: bool = False

    @classmethod
    def start(cls, arguments: Sequence[str]) -> Fork:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(reading)
            return cls(pid, open(writing, "w"))
        os.setsid()
        os.close(writing)
        sys.stdin = open(reading)  # noqa: SIM115
        os._exit(cli.main(["--worker", *arguments]))

    def poll(self) -> int | None:
        if not self.ended:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.ended, self.returncode = pid != 0, os.waitstatus_to_exitcode(status)
        return self.returncode if self.ended else None

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.001)
        return self.returncode


def watched(name: str, how: str, folder: Path, merged: Path) -> None:
    """A section that notes its cells, and that is killed once a row of it is told, or at its end
    where it tells none.
    """
    run = SECTIONS[name].run

    def section(settings: Settings) -> Outcome:
        def row(own: Row) -> None:
            settings.row(own)
            if CELL in own:
                with (folder / DONE).open("a") as file:
                    file.write(f"{name}: {own[CELL]}\n")
            die(name, how, folder, merged)

        outcome = run(replace(settings, row=row))
        die(name, how, folder, merged)
        return outcome

    SECTIONS[name] = replace(SECTIONS[name], run=section)


def die(name: str, how: str, folder: Path, merged: Path) -> None:
    """Once for each section, when what it told is where it is looked for."""
    mark = folder / f"killed-{name}"
    if how == "nothing" or mark.exists():
        return
    mark.touch()
    deadline = time.monotonic() + PATIENCE
    rows = merged.parent / "parts" / f"{name}.rows"
    while not is_told(rows, merged, name) and time.monotonic() < deadline:
        time.sleep(0.005)
    if how == "all":
        os.kill(os.getppid(), signal.SIGKILL)
    leash.end_group(os.getpid())


def is_told(rows: Path, merged: Path, name: str) -> bool:
    """Whether the one JSON has all rows of a section that are in its file."""
    lines = [line for line in rows.read_text().splitlines() if '"begun"' not in line]
    told = {part.section: part for part in cli.read_merged(merged)}
    return name in told and len(told[name].rows) >= len(lines)


def main() -> int:
    how, place, *arguments = sys.argv[1:]
    folder = Path(place)
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    arguments = ["--device", "cpu", *arguments, "--limit", str(SLOW * supervise.LIMIT)]
    options = cli.parser().parse_args(arguments)
    if options.backend == "triton":
        from interpreter import correct

        correct()
    stub_device(folder)
    tiny_sections(options.backend)
    for name, section in SECTIONS.items():
        SECTIONS[name] = replace(section, quick=SLOW * section.quick, whole=SLOW * section.whole)
    cli.QUICK_LIMIT *= SLOW
    cli.supervise = partial(supervise.supervise, start=Fork.start)
    sources()
    for name in SECTIONS:
        watched(name, how, folder, options.out / MERGED)
    if how != "all":
        return cli.main(arguments)
    # Again and again, as long as it is killed.
    for _ in range(len(SECTIONS) + 1):
        pid = os.fork()
        if pid == 0:
            os._exit(cli.main(arguments))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != -signal.SIGKILL:
            return status
        # The JSON can be read, and says how far it came.
        cli.main(["--report", str(options.out / MERGED)])
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
