"""When the host may look at the values of a tensor: where that waits for no device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from .plain import may_be_read

_EVERYWHERE: ContextVar[bool] = ContextVar("values are read on every device", default=False)


@contextmanager
def checked_values() -> Iterator[None]:
    """In this block values are checked on every device, as they always are on the CPU.

    A loss does not wait for a GPU to check what it was given: a temperature of 0 or below makes
    the loss NaN there. Run such a step again in this block, and the error says why. It waits for
    the device in every call, and cannot be captured in a CUDA graph.

    Raises:
        InputError: raised by the calls in the block, for values that break a rule.

    >>> import torch
    >>> from contrastile import clip_loss
    >>> from contrastile.testing import checked_values
    >>> x = torch.eye(4)
    >>> with checked_values():
    ...     loss = clip_loss(x, x, temperature=torch.tensor(0.5))
    """
    token = _EVERYWHERE.set(True)
    try:
        yield
    finally:
        _EVERYWHERE.reset(token)


def readable(tensor: Tensor) -> bool:
    """Whether the values of ``tensor`` may be looked at in every call."""
    if not may_be_read(tensor):
        return False
    return is_at_hand(tensor) or (checking() and not capturing(tensor))


def is_at_hand(tensor: Tensor) -> bool:
    """Whether a look at ``tensor`` waits for no device."""
    return tensor.is_cpu


def checking() -> bool:
    """Whether this is in a block of :func:`checked_values`."""
    return _EVERYWHERE.get()


def capturing(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being captured: then nothing can be read."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
