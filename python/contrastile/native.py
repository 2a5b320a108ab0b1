"""The compiled extension: whether it is there, and at which SIMD level it runs."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


@cache
def load() -> ModuleType | None:
    """``contrastile._C``, or None where it was not built. A broken extension raises."""
    if importlib.util.find_spec("contrastile._C") is None:
        return None
    return importlib.import_module("contrastile._C")


def load_for(tensor: Tensor) -> ModuleType | None:
    """The extension if it is there and ``tensor`` lies where it can reach it."""
    return load() if tensor.device.type == "cpu" else None


def is_double(tensor: Tensor) -> bool:
    """Whether the fp64 instance of a compiled step is meant."""
    return tensor.dtype == torch.float64


@cache
def level() -> str:
    """The best SIMD level this CPU has, of "avx512", "avx2", "baseline"; "" if not built."""
    module = load()
    return "" if module is None else str(module.levels()[0])


def cuda_kernels() -> ModuleType | None:
    """``contrastile._C.cuda``, or None where it was not built."""
    return getattr(load(), "cuda", None)


def cuda_archs() -> str:
    """What the CUDA kernels were compiled for, as "80 90a"; "" if they were not built."""
    return str(getattr(load(), "cuda_archs", ""))


def why_no_cuda() -> str:
    """The reason that the build gave for leaving the CUDA kernels out; "" if it did not."""
    if load() is None:
        return "the extension was not built"
    return str(getattr(load(), "no_cuda", "an older build"))
