"""Physical memory of this process: what an allocation spy cannot see, seen by the kernel."""

from __future__ import annotations

import ctypes
import gc
import os
import re
from collections.abc import Callable
from pathlib import Path

CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
RESET_PEAK = "5"


def resident_growth(run: Callable[[], object]) -> int | None:
    """Bytes by which physical memory grew at the peak of ``run()``; None where not Linux."""
    if not os.access(CLEAR, os.W_OK):
        return None
    gc.collect()
    # Freed memory that the allocator kept would be reused without any growth to see.
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text(RESET_PEAK)
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
