"""The CUDA backend: kernels compiled ahead of time, the O(N) steps around them by torch."""

from __future__ import annotations

from .backend import CudaBackend

__all__ = ["CudaBackend"]
