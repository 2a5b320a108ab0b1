"""The CPU backend: torch.mm into a cache-sized scratch, then one fused compiled pass over it."""

from .backend import CpuBackend

__all__ = ["CpuBackend"]
