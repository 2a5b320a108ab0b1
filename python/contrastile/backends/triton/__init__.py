"""The Triton backend: tiles of S stay in registers, only partial sums and strips of G leave.

Triton itself is imported when the first kernel is bound, not before.
"""

from __future__ import annotations

from .backend import TritonBackend

__all__ = ["TritonBackend"]
