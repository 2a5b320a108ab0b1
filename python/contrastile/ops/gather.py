"""Dot products of indexed pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.gather import GatherDot
from ..problem import Scores
from ..problem.checks import (
    InputError,
    check_embedding,
    check_index,
    check_integers,
    check_tensor,
    shape,
)
from ..problem.plain import is_traced, may_be_read
from ..problem.storage import gated
from . import gather_library

NAME = "gather_dot"


@gated
def gather_dot(
    query: Tensor,
    key: Tensor,
    columns: Tensor,
    row_starts: Tensor | None = None,
    *,
    scale: float | Tensor = 1.0,
    row_bias: Tensor | None = None,
    col_bias: Tensor | None = None,
    caller: str = NAME,
) -> Tensor:
    r"""Scores of listed pairs, one pair a row or a CSR list of pairs.

    .. math:: d_e = scale_{row(e)} \langle q_{row(e)}, k_{columns(e)} \rangle
                  + a_{row(e)} + b_{columns(e)}

    Differentiable once in query and key, in O(E D) work and O((N + M) D + E) memory; in scale and
    biases any number of times.

    Args:
        query: [N, D].
        key: [M, D].
        columns: int64 [N] without ``row_starts``: the column of each row, -1 for none (gives 0).
            With ``row_starts``: [E], the columns of all rows, row after row.
        row_starts: int64 [N + 1]: row i owns ``columns[row_starts[i]:row_starts[i + 1]]``.
        scale: float, 0-d tensor or [N].
        row_bias: a [N].
        col_bias: b [M].
        caller: the function that errors name, for a loss whose tensors have passed
            :func:`~contrastile.problem.storage.check_storage`.

    Returns:
        [E] (or [N]) in fp32, fp64 if an embedding is fp64.

    Raises:
        InputError: shapes, dtypes, devices or indices that do not fit (a ValueError).

    >>> import torch
    >>> from contrastile.ops import gather_dot
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    >>> gather_dot(x, x, torch.tensor([1, -1]))
    tensor([1., 0.])
    >>> gather_dot(x, x, torch.tensor([0, 1, 1]), row_starts=torch.tensor([0, 2, 3]))
    tensor([1., 1., 5.])
    """
    check_embedding(caller, "key", key)
    given = Scores.of(caller, query, key, scale, row_bias, col_bias)
    n, device = query.shape[0], query.device
    if row_starts is None:
        columns = check_index(caller, "columns", columns, n, key.shape[0])
        return _scores(given, _apply(caller, query, key, None, columns), None, columns)
    check_tensor(caller, "columns", columns)
    starts = check_integers(caller, "row_starts", row_starts, n + 1)
    lengths = starts.diff()
    if may_be_read(starts):
        _check_starts(caller, starts, lengths, columns)
    columns = check_index(caller, "columns", columns, columns.shape[0], key.shape[0])
    rows = torch.arange(n, device=device).repeat_interleave(lengths, output_size=columns.shape[0])
    return _scores(given, _apply(caller, query, key, rows, columns), rows, columns)


def _check_starts(caller: str, starts: Tensor, lengths: Tensor, columns: Tensor) -> None:
    if int(starts[0]) != 0 or bool((lengths < 0).any()) or int(starts[-1]) != len(columns):
        raise InputError(
            f"{caller}: row_starts must rise from 0 to len(columns) = {len(columns)}, "
            f"got {shape(starts)} from {int(starts[0])} to {int(starts[-1])}"
        )


def _scores(given: Scores, dots: Tensor, rows: Tensor | None, columns: Tensor) -> Tensor:
    """Scale and biases, at the pairs that exist."""

    def of_rows(vector: Tensor) -> Tensor:
        return vector if rows is None else vector[rows]

    scores, scale = dots, given.scale
    if isinstance(scale, Tensor):
        scores = scores * (scale.view(()) if scale.numel() == 1 else of_rows(scale))
    elif scale != 1.0:
        scores = scores * scale
    if given.row_bias is not None:
        scores = scores + of_rows(given.row_bias)
    if given.col_bias is not None and given.col_bias.shape[0]:
        scores = scores + given.col_bias[columns.clamp(min=0)]
    return torch.where(columns >= 0, scores, 0.0).to(dots.dtype)


def _apply(caller: str, query: Tensor, key: Tensor, rows: Tensor | None, columns: Tensor) -> Tensor:
    if is_traced():
        return gather_library.gather(query, key, rows, columns)
    result: Tensor = GatherDot.apply(caller, query, key, rows, columns)
    return result
