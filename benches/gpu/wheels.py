"""Packages that were carried along as wheels, on the path for a while."""

from __future__ import annotations

import importlib
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unpacked(folder: Path | None) -> Iterator[list[str]]:
    """Inside, what the wheels of ``folder`` hold can be imported; yields their names.

    Unpacked, as Triton reads the source of its kernels from files. Last on the path: what is
    installed, torch above all, stays what it is.
    """
    wheels = [] if folder is None else sorted(folder.glob("*.whl"))
    with tempfile.TemporaryDirectory(prefix="wheels-") as place:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(place)
        sys.path.append(place)
        importlib.invalidate_caches()
        try:
            yield [wheel.name for wheel in wheels]
        finally:
            sys.path.remove(place)
