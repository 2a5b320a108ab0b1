"""Large buffers."""

from __future__ import annotations

from torch import Tensor

from .. import native

# A page fault every 4 KiB cost a fifth of a step at N = 8192, D = 256.
LARGE = 8 * 2**20


def use_huge_pages(buffer: Tensor) -> None:
    """Ask the system to back a large CPU buffer with huge pages, where the extension can."""
    bytes_ = buffer.numel() * buffer.element_size()
    module = native.load_for(buffer)
    if module is not None and bytes_ >= LARGE:
        module.advise_huge_pages(buffer.data_ptr(), bytes_)
