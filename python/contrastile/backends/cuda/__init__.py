"""The CUDA backend: kernels compiled ahead of time; no Triton when it runs."""

from __future__ import annotations

from .backend import CudaBackend

__all__ = ["CudaBackend"]
