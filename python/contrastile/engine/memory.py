"""Large buffers."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native
from ..problem.spec import Sizes

# Bytes from which on a buffer asks for huge pages: fresh memory faults once a page, and a fault
# every 4 KiB cost a fifth of a step at N = 8192, D = 256.
LARGE = 8 * 2**20


def empty_scores(sizes: Sizes, count: int) -> Tensor | None:
    """Room for so many dot products; None for none. Large room gets huge pages where it can."""
    if count == 0:
        return None
    buffer = torch.empty(count, dtype=sizes.dtype, device=sizes.device)
    if buffer.nbytes >= LARGE:
        module = native.load_for(buffer)
        if module is not None:
            module.advise_huge_pages(buffer.data_ptr(), buffer.nbytes)
    return buffer
