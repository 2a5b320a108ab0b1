"""What only a GPU can show, by sections: see ``benches/gpu_check.py``."""

from __future__ import annotations

from .cli import main

__all__ = ["main"]
