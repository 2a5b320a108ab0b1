"""The compiled extension: whether it is there, and at which SIMD level it runs."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType

import torch

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


@cache
def load() -> ModuleType | None:
    """``contrastile._C``, or None where it was not built. A broken extension raises."""
    if importlib.util.find_spec("contrastile._C") is None:
        return None
    return importlib.import_module("contrastile._C")


@cache
def level() -> str:
    """The best SIMD level this CPU has, of "avx512", "avx2", "baseline"; "" if not built."""
    module = load()
    return "" if module is None else str(module.levels()[0])
