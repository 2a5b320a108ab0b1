"""The options every loss shares: stated once, checked once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeAlias, TypedDict

import torch
from torch import Tensor

from ..backends import backend_names
from ..problem.checks import (
    InputError,
    check_choice,
    check_number,
    check_switch,
    check_vector,
    shape,
)
from ..problem.problem import check_workspace
from ..problem.scores import LARGEST_SCALE, check_scale

P = ParamSpec("P")

# A Tensor, or (Tensor, Stats) with return_stats=True: a union would make every typed caller
# narrow it before .backward().
LossOutput: TypeAlias = Any


class LossOptions(TypedDict, total=False):
    """Keyword options of every loss; :class:`Options` holds their defaults and meaning."""

    temperature: float | Tensor | None
    logit_scale: float | Tensor | None
    logit_bias: float | Tensor | None
    weights: Tensor | None
    normalize: bool
    reduction: str
    empty: str
    group: None
    backend: str
    workspace: int | None
    return_stats: bool


@dataclass(frozen=True, eq=False)
class Options:
    """The shared options of a loss call.

    Args:
        temperature: divides the dot products: a positive float, a 0-d tensor or one value a row.
            The values of a tensor are not looked at.
        logit_scale: multiplies them instead (already exponentiated). Exactly one of the two.
        logit_bias: added to every score: a float or a 0-d tensor.
        weights: one weight a row; the mean still divides by the number of rows.
        normalize: divide each embedding by its length, in fp32 (fp64); zero rows stay zero.
        reduction: "mean", "sum" or "none".
        empty: rows without a positive or without a negative: "zero" counts them as 0, "skip"
            leaves them out of the mean, "error" raises.
        group: None. The loss is of one process's embeddings; a process group is refused.
        backend: "auto", "cpu", "triton" or "reference".
        workspace: bytes that the scores may take at any time; default 256 MiB,
            on a GPU a 64th of its memory if that is more.
        return_stats: return ``(loss, Stats)``.
    """

    caller: str
    temperature: float | Tensor | None = None
    logit_scale: float | Tensor | None = None
    logit_bias: float | Tensor | None = None
    weights: Tensor | None = None
    normalize: bool = False
    reduction: str = "mean"
    empty: str = "zero"
    group: None = None
    backend: str = "auto"
    workspace: int | None = None
    return_stats: bool = False

    def __post_init__(self) -> None:
        check_choice(self.caller, "reduction", self.reduction, ("mean", "sum", "none"))
        check_choice(self.caller, "empty", self.empty, ("zero", "skip", "error"))
        check_choice(self.caller, "backend", self.backend, backend_names())
        check_workspace(self.caller, self.workspace)
        for name in ("normalize", "return_stats"):
            check_switch(self.caller, name, getattr(self, name))
        if self.group is not None:
            raise InputError(
                f"{self.caller}: group is not supported yet, got {self.group!r}; gather the "
                "embeddings with a differentiable all-gather and pass those"
            )

    def scale(self, n: int, device: torch.device) -> float | Tensor:
        """What multiplies the dot products of ``n`` rows."""
        caller = self.caller
        if (self.temperature is None) == (self.logit_scale is None):
            got = "neither" if self.temperature is None else "both"
            raise InputError(
                f"{caller}: give exactly one of temperature and logit_scale, got {got}; "
                "temperature=0.07 is the usual start"
            )
        if self.logit_scale is not None:
            check_scale(caller, "logit_scale", self.logit_scale, n, device)
            return self.logit_scale
        assert self.temperature is not None
        check_scale(caller, "temperature", self.temperature, n, device)
        if isinstance(self.temperature, Tensor):
            return widen(self.temperature).reciprocal()
        if self.temperature <= 0:
            raise InputError(f"{caller}: temperature must be positive, got {self.temperature}")
        smallest = 1.0 / LARGEST_SCALE
        return 1.0 / check_number(caller, "temperature", self.temperature, smallest, LARGEST_SCALE)

    def scalar_scale(self, n: int, device: torch.device) -> float | Tensor:
        """The scale of a loss in which one row's scale would have to be another's too."""
        scale = self.scale(n, device)
        if isinstance(scale, Tensor) and scale.dim() == 1 and scale.numel() != 1:
            raise InputError(
                f"{self.caller}: each item is a row and a column, so the scale must be one number, "
                f"got {shape(scale)}"
            )
        return scale

    def bias(self, key: Tensor, per_key: bool = False) -> Tensor | None:
        """The bias of the columns that ``key`` makes, or None."""
        m, device = len(key), key.device
        bias = self.logit_bias
        if bias is None:
            return None
        if not isinstance(bias, Tensor):
            number = check_number(self.caller, "logit_bias", bias, -LARGEST_SCALE, LARGEST_SCALE)
            return (
                torch.full((m,), number, dtype=wide_dtype(key), device=device) if number else None
            )
        if bias.dim() == 0 or bias.shape == (1,):
            check_scale(self.caller, "logit_bias", bias, m, device)
            # Its gradient is summed over rows: in fp64, to be rounded once.
            return bias.reshape(()).double().expand(m)
        if not per_key:
            raise InputError(
                f"{self.caller}: logit_bias must be a float or a 0-d tensor, got {shape(bias)}"
            )
        return check_vector(self.caller, "logit_bias", bias, m, device)

    def row_weights(self, n: int, device: torch.device) -> Tensor | None:
        """The weights of ``n`` rows, or None."""
        if self.weights is None:
            return None
        return check_vector(self.caller, "weights", self.weights, n, device)

    def embeddings(self, x: Tensor) -> Tensor:
        """``x``, of unit length if asked for."""
        return unit_length(x) if self.normalize else x

    @property
    def engine(self) -> dict[str, Any]:
        """What the primitives take of these options."""
        return {"backend": self.backend, "workspace": self.workspace}


def wide_dtype(x: Tensor) -> torch.dtype:
    """What is computed in for ``x``: fp32, or fp64 if it is."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def widen(x: Tensor) -> Tensor:
    """``x`` in fp32, or fp64 if it is."""
    return x.to(wide_dtype(x))


def unit_length(x: Tensor) -> Tensor:
    """Rows divided by their Euclidean length in fp32 (fp64); a zero row is 0 with gradient 0."""
    wide = widen(x)
    length = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    smallest = torch.finfo(wide.dtype).tiny
    zero = length <= smallest
    return wide * torch.where(zero, 0.0, 1.0 / torch.where(zero, 1.0, length))


def loss_function(function: Callable[P, LossOutput]) -> Callable[P, LossOutput]:
    """Show the shared options in the signature (``help``, editors), and name unknown ones."""
    own = signature(function)
    shared = [
        Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(Options)
        if f.name != "caller"
    ]
    explicit = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    names = {p.name for p in (*explicit, *shared)}

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> LossOutput:
        for name in kwargs:
            if name not in names:
                raise TypeError(
                    f"{function.__name__}: no option {name!r}; "
                    f"its options are {', '.join(sorted(names))}"
                )
        return function(*args, **kwargs)

    checked.__signature__ = own.replace(parameters=[*explicit, *shared])  # type: ignore[attr-defined]
    return checked
