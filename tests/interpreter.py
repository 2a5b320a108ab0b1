"""Triton's interpreter, made right for bf16 and for fused multiply-adds.

It holds bf16 as its 16 bits in an integer. Its tl.dot multiplies those integers, its rounding from
fp32 cuts bits off where a GPU rounds to the nearest, ties to even, and its tl.fma rounds twice. All
three are corrected here, in the interpreter: the kernels under test stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

BF16, FP32 = tl.bfloat16, tl.float32


def widened(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values: Any) -> Any:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, nearest).astype(np.uint16)


def corrected() -> dict[str, Any]:
    """The methods of the interpreter's builder that stand in for its own."""
    dot = InterpreterBuilder.create_dot
    cast = InterpreterBuilder.cast_impl
    fp_to_fp = InterpreterBuilder.create_fp_to_fp

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        if BF16 not in (a.dtype.scalar, b.dtype.scalar):
            return dot(self, a, b, d, *options)
        left, right = (
            widened(each.data) if each.dtype.scalar == BF16 else each.data for each in (a, b)
        )
        product = np.matmul(left, right, dtype=d.data.dtype) + d.data
        return TensorHandle(product, d.dtype.scalar)

    def convert(source: Any, target: Any) -> Any:
        if (source.dtype.scalar, target) == (FP32, BF16):
            return TensorHandle(rounded(source.data), BF16)
        if (source.dtype.scalar, target) == (BF16, FP32):
            return TensorHandle(widened(source.data), FP32)
        return None

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        return convert(source, target.scalar) or cast(self, source, target)

    def create_fp_to_fp(self: Any, source: Any, target: Any, mode: Any) -> Any:
        return convert(source, target.scalar) or fp_to_fp(self, source, target, mode)

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        dtype = z.data.dtype
        # A product of two fp32 is exact in fp64.
        wide = np.float64 if dtype == np.float32 else dtype
        value = x.data.astype(wide) * y.data.astype(wide) + z.data.astype(wide)
        return TensorHandle(value.astype(dtype), z.dtype.scalar)

    return {
        "create_dot": create_dot,
        "cast_impl": cast_impl,
        "create_fp_to_fp": create_fp_to_fp,
        "create_fma": create_fma,
    }


def correct() -> None:
    """From here on they are right in every interpreted kernel of this process."""
    for name, method in corrected().items():
        setattr(InterpreterBuilder, name, method)
