"""Scores: the N x M numbers that are never stored."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import (
    InputError,
    check_embedding,
    check_number,
    check_same_size,
    check_vector,
    conversion,
    is_number,
    shape,
)
from .plain import known_number

# Products of larger scales with ordinary dot products overflow fp32.
LARGEST_SCALE = 1e30


class Scores(NamedTuple):
    r""":math:`S_{ij} = scale_i \langle q_i, k_j \rangle + a_i + b_j`.

    Args:
        query: q [N, D].
        key: k [M, D]; None is the self mode (k = q, computed over one triangle).
        scale: a float, a 0-d tensor or one value a row [N].
        row_bias: a [N] or None.
        col_bias: b [M] or None.
    """

    query: Tensor
    key: Tensor | None
    scale: float | Tensor = 1.0
    row_bias: Tensor | None = None
    col_bias: Tensor | None = None

    @classmethod
    def of(
        cls,
        caller: str,
        query: Tensor,
        key: Tensor | None,
        scale: float | Tensor = 1.0,
        row_bias: Tensor | None = None,
        col_bias: Tensor | None = None,
    ) -> Scores:
        """Checked scores; ``key is query`` is the self mode too."""
        check_embedding(caller, "query", query)
        if key is query:
            key = None
        if key is not None:
            check_embedding(caller, "key", key)
            check_same_size(caller, query=query, key=key)
        check_scale(caller, "scale", scale, query.shape[0])
        if not isinstance(scale, Tensor):
            scale = known_number(scale, query.device)
        if row_bias is not None:
            check_vector(caller, "row_bias", row_bias, query.shape[0])
        if col_bias is not None:
            check_vector(caller, "col_bias", col_bias, (query if key is None else key).shape[0])
        return cls(query, key, scale, row_bias, col_bias)

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: fp64 if any embedding is fp64, else fp32."""
        key = self.query if self.key is None else self.key
        double = torch.float64 in (self.query.dtype, key.dtype)
        return torch.float64 if double else torch.float32

    @property
    def embedding_dtype(self) -> torch.dtype:
        """The narrowest dtype that both embeddings are exact in."""
        key = self.query if self.key is None else self.key
        return torch.promote_types(self.query.dtype, key.dtype)


def check_scale(caller: str, name: str, scale: object, n: int) -> None:
    """``scale`` is a float, a 0-d tensor or a tensor of one value a row."""
    if isinstance(scale, Tensor):
        if scale.dim() == 0 or scale.shape == (1,):
            if not scale.is_floating_point():
                raise InputError(f"{caller}: {name} must be floating point, got {scale.dtype}")
        elif scale.shape == (n,):
            check_vector(caller, name, scale, n)
        else:
            raise InputError(
                f"{caller}: {name} must be a float, a 0-d tensor or one value a row ({n},), "
                f"got {shape(scale)}"
            )
    elif not is_number(scale):
        got = type(scale).__name__
        remedy = conversion(name, scale)
        raise TypeError(f"{caller}: {name} must be a float or a tensor, got {got}{remedy}")
    else:
        check_number(caller, name, scale, -LARGEST_SCALE, LARGEST_SCALE)
