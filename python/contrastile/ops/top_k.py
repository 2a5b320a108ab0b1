"""The largest dot products of each row."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..problem import InputError, Pairs
from ..problem.checks import check_embedding, check_switch
from ..problem.integers import check_integer
from ..problem.storage import gated
from .selections import select

NAME = "top_k"
# Of more columns than there are, which are returned as none.
MOST_BEYOND = 2**16


class TopK(NamedTuple):
    """Of each row its best columns, the best first.

    Attributes:
        values: [N, k] their dot products, -inf where there are fewer; differentiable once.
        indices: [N, k] int64, the columns; -1 where there are fewer.
    """

    values: Tensor
    indices: Tensor


@gated
def top_k(
    query: Tensor,
    key: Tensor | None = None,
    *,
    k: int,
    pairs: Pairs | None = None,
    largest: bool = True,
    backend: str = "auto",
    workspace: int | None = None,
    caller: str = NAME,
) -> TopK:
    r"""The k best columns of each row, among the pairs of a predicate; no N x M matrix is stored.

    .. math:: v_{i1} \ge v_{i2} \ge \dots \ge v_{ik} \quad\text{of}\quad
              \{\langle q_i, k_j \rangle : (i, j) \in pairs\}

    Of equal dot products the one of the smaller column comes first, however the scores are cut into
    tiles. NaN comes before every number, so that it shows; -inf is never picked. Memory is
    O((N + M) D + N k) beside a block of scores in the workspace. A scale would change no order; the
    best rows of each column are those of ``top_k(key, query)``.

    Args:
        query: [N, D], fp32, fp64, bf16 or fp16.
        key: [M, D]; None is the query itself (leave each row's own pair out by
            ``~Index.diagonal(n)``).
        k: from 1 to M; up to 65,536 it may be more than M.
        pairs: which pairs may be picked; None: all.
        largest: False picks the smallest, the smallest first.
        backend: "auto", "cpu", "triton" or "reference".
        workspace: bytes that a block of scores may take at any time; default 256 MiB,
            on a GPU a 64th of its memory if that is more.
        caller: the function that errors name, for one whose tensors have passed
            :func:`~contrastile.problem.storage.check_storage`.

    Returns:
        :class:`TopK`; values in fp32, or fp64 if an embedding is. Their gradient goes to the picked
        pairs alone, as that of :func:`~contrastile.ops.gather_dot`.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).
        TypeError: an argument of the wrong type.

    >>> import torch
    >>> from contrastile.ops import top_k
    >>> from contrastile.problem import Index
    >>> x = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    >>> top_k(x, k=2, pairs=~Index.diagonal(3)).indices
    tensor([[1, 2],
            [2, 0],
            [1, 0]])
    """
    other = query if key is None else key
    check_embedding(caller, "query", query)
    check_embedding(caller, "key", other)
    count = _count(caller, k, other.shape[0])
    check_switch(caller, "largest", largest)
    if largest:
        return TopK(*select(caller, query, key, pairs, backend, workspace, k=count))
    found = select(caller, -query, other, pairs, backend, workspace, k=count)
    return TopK(-found.values, found.columns)


def _count(caller: str, k: object, columns: int) -> int:
    count = check_integer(caller, "k", k)
    if count < 1:
        raise InputError(f"{caller}: k must be at least 1, got {count}")
    if count > MOST_BEYOND and count > columns:
        raise InputError(
            f"{caller}: k must be at most {MOST_BEYOND} where there are not as many columns, "
            f"got {count} of {columns}"
        )
    return count
