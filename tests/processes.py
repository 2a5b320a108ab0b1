"""Processes of one gloo group that run functions of the tests, side by side."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# Enough for a busy machine; a hang must not hold up a run for long.
PATIENCE = 90.0
# What a test's function fails with.
FAILURES = (
    *(AssertionError, ArithmeticError, AttributeError, ImportError, LookupError, NameError),
    *(OSError, RuntimeError, TypeError, ValueError),
)
# What one process waits for another.
TIMEOUT = 30.0
DIED = "a process died"


class Processes:
    """``world`` processes, started once: torch alone takes seconds to import."""

    def __init__(self, world: int, timeout: float = TIMEOUT) -> None:
        self.world, self.timeout = world, timeout
        self.start()

    def start(self) -> None:
        context = mp.get_context("forkserver")
        preload(context)
        self.folder = tempfile.TemporaryDirectory()
        meeting = str(Path(self.folder.name) / "store")
        pairs = [context.Pipe() for _ in range(self.world)]
        self.pipes = [own for own, _ in pairs]
        self.workers = [
            context.Process(
                target=serve, args=(rank, self.world, meeting, self.timeout, theirs), daemon=True
            )
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for worker in self.workers:
            worker.start()
        for _, theirs in pairs:
            theirs.close()

    def run(self, task: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What ``task(*arguments)`` returns in each process; the first error of any is raised.

        After an error they are started again: the others may still wait for the one that failed.
        """
        for pipe in self.pipes:
            pipe.send((task, arguments))
        found: dict[Connection, Any] = {}
        while len(found) < self.world:
            # Whoever fails first says why; the others only miss it.
            ready = wait([pipe for pipe in self.pipes if pipe not in found], PATIENCE)
            failed, value = answer(ready[0]) if ready else (True, "a process hangs")
            if failed:
                self.stop()
                self.start()
                raise AssertionError(value)
            found[ready[0]] = value
        return [found[pipe] for pipe in self.pipes]

    def survivors(self, task: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What ``task(*arguments)`` returns in each process, None of one that dies in it.

        Processes that outlive another are of no use afterwards: they are to be stopped.
        """
        for pipe in self.pipes:
            pipe.send((task, arguments))
        found = []
        for pipe in self.pipes:
            failed, value = answer(pipe) if pipe.poll(PATIENCE) else (True, "a process hangs")
            assert not failed or value == DIED, value
            found.append(None if failed else value)
        return found

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.join()
        self.folder.cleanup()


def preload(context: ForkServerContext) -> None:
    """One process imports torch and the tests' functions, all others are copies of it."""
    context.set_forkserver_preload(["rank_cases"])
    # Before Python 3.12.8 it is not told where modules are, and passes over what it does not find.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


def answer(pipe: Connection) -> tuple[bool, Any]:
    try:
        own: tuple[bool, Any] = pipe.recv()
    except EOFError:
        return True, DIED
    return own


def serve(rank: int, world: int, meeting: str, timeout: float, pipe: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=timeout),
    )
    while True:
        try:
            task, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((False, task(*arguments)))
        except FAILURES:
            pipe.send((True, f"rank {rank}\n{traceback.format_exc()}"))
