"""Tasks side by side in processes of their own: most of their time goes to compiling kernels."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from .extension import use
from .recorder import Recorder
from .settings import Settings

Task = TypeVar("Task")
Result = TypeVar("Result")
LARGEST = 14


def each(
    function: Callable[[Task], Result], tasks: Sequence[Task], settings: Settings
) -> Iterator[tuple[Task, Result | str]]:
    """Each task with its result, or with what went wrong: an error or the end of the time.

    On the CPU one after the other, in this process.
    """
    if not settings.on_gpu:
        for task in tasks:
            yield task, function(task)
        return
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")
    processes = min(LARGEST, len(tasks), os.cpu_count() or 1)
    # A device lost in one task is not the next one's: none shares a process with another.
    with context.Pool(processes, use, (settings.extension,), maxtasksperchild=1) as pool:
        waiting = [(task, pool.apply_async(partial(guarded, function), (task,))) for task in tasks]
        for task, result in waiting:
            result.wait(max(settings.left, 0.1))
            yield task, result.get() if result.ready() else "not done in time"


def guarded(function: Callable[[Task], Result], task: Task) -> Result | str:
    """The result, or the error as text: not every error survives the way between processes."""
    with Recorder() as recorder:
        return function(task)
    return f"{recorder.error}\n{recorder.traceback}"
