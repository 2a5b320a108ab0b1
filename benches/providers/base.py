"""What a provider of losses answers."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Protocol

from ..cases import Case
from ..naive import LossFunction


class Provider(Protocol):
    """Something that computes some of the losses.

    Attributes:
        name: as in tables and in ``--providers``.
        losses: names of the losses it has.
        eager: runs operator by operator, so that an allocation spy sees what it allocates.
    """

    @property
    def name(self) -> str: ...

    @property
    def losses(self) -> Collection[str]: ...

    @property
    def eager(self) -> bool: ...

    def unavailable(self) -> str | None:
        """None, or the reason why it cannot run here at all."""
        ...

    def supports(self, case: Case) -> str | None:
        """None, or the reason why it cannot compute ``case``."""
        ...

    def build(self, case: Case) -> LossFunction:
        """The loss of ``case`` as a function of its inputs; construction is not timed."""
        ...


def too_large(case: Case, matrices: float) -> str | None:
    """None, or why ``matrices`` buffers of N x M do not fit half of this machine's memory."""
    needed = matrices * case.score_bytes
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed <= installed / 2:
        return None
    return f"needs about {needed / 2**30:.0f} GiB for N x M buffers, {installed / 2**30:.0f} exist"
