"""Merging the log-sum-exps of disjoint blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem.checks import InputError, check_tensor, shape
from ..problem.storage import check_storage

NAME = "merge_log_sum_exp"


def merge_log_sum_exp(*blocks: Tensor) -> Tensor:
    r"""The log-sum-exp over several disjoint blocks, :math:`\log \sum_b e^{\ell_b}`.

    Unlike ``torch.logsumexp`` and ``torch.logaddexp``, an entry that is -inf in every block is
    -inf with gradient 0, not NaN; an entry that is NaN in a block is NaN.

    Args:
        blocks: at least one tensor; all of one shape.

    Raises:
        InputError: no block, or blocks of different shapes (a ValueError).

    >>> import torch
    >>> from contrastile.ops import merge_log_sum_exp
    >>> a = torch.tensor([0.0, -torch.inf], requires_grad=True)
    >>> merged = merge_log_sum_exp(a, torch.tensor([0.0, -torch.inf]))
    >>> merged.sum().backward()
    >>> merged.detach(), a.grad
    (tensor([0.6931,   -inf]), tensor([0.5000, 0.0000]))
    """
    if not blocks:
        raise InputError(f"{NAME}: needs at least one block")
    check_storage(NAME, {f"block {i}": block for i, block in enumerate(blocks)})
    for block in blocks:
        check_tensor(NAME, "block", block)
        if block.shape != blocks[0].shape:
            raise InputError(
                f"{NAME}: blocks need one shape, got {shape(blocks[0])} and {shape(block)}"
            )
    stacked = torch.stack(blocks)
    empty = torch.isneginf(stacked).all(0)
    # logsumexp of a row of zeros has a gradient; masking its input first keeps NaN out of it.
    merged = stacked.masked_fill(empty, 0.0).logsumexp(0)
    return merged.masked_fill(empty, -torch.inf)
