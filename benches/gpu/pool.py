"""Tasks side by side in processes of their own: most of their time goes to compiling kernels."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from .cells import failed
from .extension import use
from .record import Row
from .recorder import Recorder
from .settings import Settings

Task = TypeVar("Task")
Result = TypeVar("Result")
LARGEST = 14
# Seconds between two looks at the clock.
LONGEST = 60.0
# How processes are started: CUDA does not survive a fork.
METHOD = "spawn"


def cells(
    function: Callable[[Task], Row],
    tasks: Mapping[str, Task],
    settings: Settings,
    later: Callable[[Task], bool] = lambda task: False,
) -> dict[str, Row]:
    """The rows of those tasks that are done, by name: cells of a section, in no order."""
    if not settings.on_gpu:
        for name, task in tasks.items():
            settings.cell(name, lambda task=task: function(task), later(task))  # type: ignore[misc]
    else:
        names = [name for name, task in tasks.items() if settings.wants(name, later(task))]
        settings.cells.left += len(names)
        for name, found in each(function, [tasks[name] for name in names], names, settings):
            settings.cells.left -= 1
            row = failed(*found) if isinstance(found, tuple) else found
            settings.cells.settle(name, row, settings.row)
    return {name: settings.cells.done[name] for name in tasks if name in settings.cells.done}


def each(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    names: Sequence[str],
    settings: Settings,
) -> Iterator[tuple[str, Result | tuple[str, str | None]]]:
    """Each name with its task's result, or with the error and its traceback, as they come; not
    those for which there is no time.
    """
    context: Any = multiprocessing.get_context(METHOD)
    waiting = list(zip(names, tasks, strict=True))[::-1]
    running: dict[Connection, tuple[str, Any]] = {}
    most = min(LARGEST, os.cpu_count() or 1)
    try:
        while (waiting or running) and settings.left > 0:
            while waiting and len(running) < most:
                name, task = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                given = (sender, function, task, settings.extension)
                process = context.Process(target=answer, args=given)
                process.start()
                sender.close()
                running[receiver] = name, process
            for ready in wait(list(running), timeout=min(settings.left, LONGEST)):
                assert isinstance(ready, Connection)
                name, process = running.pop(ready)
                yield name, received(ready, process)
    finally:
        for receiver, (_, process) in running.items():
            process.kill()
            process.join()
            receiver.close()


def received(receiver: Connection, process: Any) -> Any:
    """What a process answered, or how it ended instead."""
    with receiver:
        try:
            found = receiver.recv()
        except EOFError:
            found = None
    process.join()
    return (f"the process ended with status {process.exitcode}", None) if found is None else found


def answer(
    sender: Connection, function: Callable[[Task], Result], task: Task, extension: Path | None
) -> None:
    """The process: a device lost in one task is not the next one's, as none shares a process."""
    with Recorder() as recorder:
        use(extension)
        found = function(task)
    sender.send(found if recorder.error is None else (recorder.error, recorder.traceback))
    sender.close()
