"""The largest dot product of each row with each of several groups of columns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..problem import Pairs
from ..problem.checks import check_embedding, check_starts, check_tensor
from ..problem.storage import gated
from .selections import select

NAME = "group_max"


class GroupMax(NamedTuple):
    """Of each row and group the best column.

    Attributes:
        values: [N, G] their dot products, -inf for none; differentiable once.
        indices: [N, G] int64, the columns; -1 for none.
    """

    values: Tensor
    indices: Tensor


@gated
def group_max(
    query: Tensor,
    key: Tensor,
    group_starts: Tensor,
    *,
    pairs: Pairs | None = None,
    backend: str = "auto",
    workspace: int | None = None,
    caller: str = NAME,
) -> GroupMax:
    r"""The maximum over groups of columns, such as the tokens of a document; S is never stored.

    .. math:: v_{ig} = \max\{\langle q_i, k_j \rangle : start_g \le j < start_{g+1},\
              (i, j) \in pairs\}

    Of equal dot products the one of the smaller column counts, however the scores are cut into
    tiles. NaN is larger than every number, so that it shows; -inf is never picked. A group without
    a column has -inf and -1. Memory is O((N + M) D + N G) beside a block of scores in the
    workspace. Late interaction is a sum over the rows of a query:
    :func:`~contrastile.max_sim_info_nce`.

    Args:
        query: [N, D], fp32, fp64, bf16 or fp16.
        key: [M, D].
        group_starts: int64 [G + 1], rising: group g owns the columns from ``group_starts[g]`` to
            before ``group_starts[g + 1]``. Columns before the first or behind the last are of none.
        pairs: which pairs may be picked; None: all.
        backend: "auto", "cpu", "triton" or "reference".
        workspace: bytes that a block of scores may take at any time; default 256 MiB,
            on a GPU a 64th of its memory if that is more.
        caller: the function that errors name, for one whose tensors have passed
            :func:`~contrastile.problem.storage.check_storage`.

    Returns:
        :class:`GroupMax`; values in fp32, or fp64 if an embedding is. Their gradient goes to the
        picked pairs alone.

    Raises:
        InputError: shapes, dtypes, devices or options that do not fit (a ValueError).
        TypeError: an argument of the wrong type.

    >>> import torch
    >>> from contrastile.ops import group_max
    >>> tokens = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> found = group_max(tokens[:2], tokens, torch.tensor([0, 2, 3]))
    >>> found.values
    tensor([[1., 3.],
            [4., 2.]])
    >>> found.indices
    tensor([[0, 2],
            [1, 2]])
    """
    check_tensor(caller, "query", query)
    check_embedding(caller, "key", key)
    starts = check_starts(caller, "group_starts", group_starts, key.shape[0])
    return GroupMax(*select(caller, query, key, pairs, backend, workspace, starts=starts))
