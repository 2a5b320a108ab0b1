"""What torch's matrix products leave to be done: wide accumulators, exact symmetry, sums."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native

# Rows that are mirrored at a time: few calls, and a copy that stays in the cache.
BAND = 128


def add_product(out: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float) -> None:
    """out = beta out + alpha a b, accumulated in out's dtype.

    By torch.addmm with ``out=``: torch's counter of flops knows that function, and not the method
    that works in place.
    """
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, beta=beta, alpha=alpha, out=out)
    elif out.is_cuda:
        torch.addmm(out, a, b, out_dtype=out.dtype, beta=beta, alpha=alpha, out=out)
    else:
        # torch.mm on the CPU rounds its products to the factors' dtype.
        torch.addmm(out, a.to(out.dtype), b.to(out.dtype), beta=beta, alpha=alpha, out=out)


def make_symmetric(square: Tensor) -> None:
    """Overwrite what lies below the diagonal by its mirror image above.

    A product z z^T is not symmetric to the last bit wherever a BLAS cuts it into parts, as MKL does
    for four threads. A row's log-sum-exp would then be of other numbers than the weights that
    other rows give it: at scale 100 gradients had 2.1 times the error of the plain formula.
    """
    module = native.load_for(square)
    if module is not None and square.is_contiguous():
        threads = torch.get_num_threads()
        module.mirror(square.data_ptr(), square.element_size(), len(square), threads)
        return
    for start in range(0, len(square), BAND):
        band = slice(start, start + BAND)
        square[band, :start] = square[:start, band].t()
        own = square[band, band]
        own.copy_(own.triu() + own.triu(1).t())


def add_sums(block: Tensor, of_rows: Tensor | None, of_cols: Tensor | None) -> None:
    """Add the sums of a block's rows and columns, in fp64, where there is a vector for them."""
    module = native.load_for(block)
    if module is not None and block.element_size() > 2 and block.is_contiguous():
        rows, cols = (0 if own is None else own.data_ptr() for own in (of_rows, of_cols))
        double, threads = native.is_double(block), torch.get_num_threads()
        module.add_sums(double, block.data_ptr(), *block.shape, rows, cols, threads)
        return
    for own, dim in ((of_rows, 1), (of_cols, 0)):
        if own is not None:
            own += block.sum(dim, dtype=torch.float64)
