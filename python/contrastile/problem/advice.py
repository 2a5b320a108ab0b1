"""Advice: what runs, but is probably not what was meant, is said once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .plain import is_traced

# Frames that lie between a user's line and the advice on it.
OURS = ("contrastile", "torch")


class ContrastileWarning(UserWarning):
    """A call that is allowed and probably a mistake; said once for each function and kind."""


# What was said in this process: (function, kind). Python's own registry of warnings does not do:
# whoever enters `warnings.catch_warnings` between two steps, as libraries do, makes every warning
# new again.
GIVEN: set[tuple[str, str]] = set()
_UNASKED: ContextVar[bool] = ContextVar("calls that no user meant", default=False)


@contextmanager
def unadvised() -> Iterator[None]:
    """In this block calls get no advice and count for none: they are not the user's."""
    token = _UNASKED.set(True)
    try:
        yield
    finally:
        _UNASKED.reset(token)


def wanted() -> bool:
    """Whether a call may get advice: it is one of the user's, and not one that is traced."""
    return not (is_traced() or _UNASKED.get())


def advise(caller: str, kind: str, message: str, meant: str | None = None) -> None:
    """Warn, once for each ``caller`` and ``kind``, at the line that called the package.

    Args:
        caller: the function that the user called.
        kind: a short name of the mistake; it is not shown.
        message: what is probably wrong, and the remedy.
        meant: the argument that says that it is right, if there is one.
    """
    if not wanted() or (caller, kind) in GIVEN:
        return
    silence = 'warnings.filterwarnings("ignore", category=contrastile.ContrastileWarning)'
    way_out = f"{meant}, or {silence}" if meant else silence
    text = f"{caller}: {message}. If it is meant: {way_out}"
    warnings.warn(text, ContrastileWarning, stacklevel=_level_of_the_user())
    # Not before: a filter that makes an error of the warning makes one of every call.
    GIVEN.add((caller, kind))


def _level_of_the_user() -> int:
    """How far above :func:`advise` the first frame stands that is neither ours nor torch's."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _package(frame.f_globals) in OURS:
        frame, level = frame.f_back, level + 1
    return level


def _package(scope: dict[str, object]) -> str:
    return str(scope.get("__name__", "")).partition(".")[0]
