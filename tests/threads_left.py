"""Runs an example as a program, and fails if a thread of gloo outlives its process group.

Such a thread may free a tensor while Python shuts down, and then aborts the process: seldom,
so that the exit code of a run or two says little.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    left = [name for name in names if "gloo" in name]
    assert not left, left
