"""Errors as text."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from types import TracebackType


@dataclass
class Recorder:
    """Keeps what was raised inside; an interrupt goes on."""

    error: str | None = None
    traceback: str | None = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.error = f"{type(error).__name__}: {error}".strip()
        self.traceback = "".join(traceback.format_exception(kind, error, trace))
        return True
