"""All that only a GPU can show, in one call: ``python benches/gpu_check.py --out DIR``.

Runs from the root of a checkout on a machine that has torch, triton and numpy, and nothing else:
contrastile need not be installed, and an installed one is not looked at. A section that fails,
crashes or hangs does not take the others along; run again, what is there is not done again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def make_importable(folder: Path, root: Path = ROOT) -> None:
    """The package as it would be installed, of links to the working tree, first on the path."""
    package = folder / "contrastile"
    package.mkdir()
    for entry in (root / "python" / "contrastile").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for name in ("triton_kernels", "benches"):
        (package / name).symlink_to(root / name)
    # A script's own folder is on the path, and files in it have names like "inputs" and "table".
    here = str(root / "benches")
    sys.path[:] = [str(folder), *(p for p in sys.path if str(Path(p).resolve()) != here)]


def start() -> int:
    """Runs the command line on the working tree."""
    with tempfile.TemporaryDirectory(prefix="contrastile-") as folder:
        make_importable(Path(folder))
        import contrastile
        from contrastile.benches.gpu.cli import main

        if not str(contrastile.__file__).startswith(folder):
            raise RuntimeError(f"{contrastile.__file__} was imported instead of the working tree")
        return main()


if __name__ == "__main__":
    raise SystemExit(start())
