"""Ctrl-C as a request to come to an end."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupt:
    """Within it the first Ctrl-C only sets ``requested``; a second one stops the program."""

    requested = False

    def __enter__(self) -> Interrupt:
        self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self._previous)
