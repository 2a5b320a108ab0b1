"""Where and with what a measurement was made."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import contrastile
import torch

HERE = Path(__file__).resolve().parent


def environment() -> dict[str, str | int | None]:
    """The header of a result file."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "contrastile": contrastile.__version__,
        "commit": commit(),
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit this file is under, with "-dirty" after changes; None outside its repository."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> str | None:
        done = subprocess.run(
            [git, "-C", str(HERE), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may lie inside some other project's repository.
    tracked = ask("ls-files", "--error-unmatch", Path(__file__).name)
    return ask("describe", "--always", "--dirty", "--abbrev=12") if tracked else None
