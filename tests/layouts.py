"""Ways the same rows may lie in memory: a base tensor and the view of it that a loss is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from helpers import Arguments
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    base: Callable[[Tensor], Tensor]
    view: Callable[[Tensor, int, int], Tensor]


def spread(x: Tensor, dim: int) -> Tensor:
    """The rows (or columns) of x with strangers in between."""
    return torch.stack([x, torch.full_like(x, 1e6)], dim=dim + 1).flatten(dim, dim + 1)


def one_column(x: Tensor) -> Tensor:
    """Expanded, its rows have length one or more: dividing by a tiny length is all noise."""
    return (1 + x[:, :1].abs()) / x.shape[1] ** 0.5 * torch.where(x[:, :1] < 0, -1, 1)


LAYOUTS = {
    "contiguous": Layout(lambda x: x, lambda base, n, d: base),
    "transposed": Layout(lambda x: x.T.contiguous(), lambda base, n, d: base.T),
    "every other row": Layout(lambda x: spread(x, 0), lambda base, n, d: base[::2]),
    "every other column": Layout(lambda x: spread(x, 1), lambda base, n, d: base[:, ::2]),
    "offset": Layout(lambda x: torch.cat([x[:1], x]), lambda base, n, d: base[1:]),
    "one row expanded": Layout(lambda x: x[:1].clone(), lambda base, n, d: base.expand(n, d)),
    "one column expanded": Layout(one_column, lambda base, n, d: base.expand(n, d)),
}


def laid_out(
    function: Callable[..., Tensor], arguments: Arguments, chosen: Mapping[str, str]
) -> tuple[Callable[..., Tensor], Arguments]:
    """The function on views, and its arguments with bases: gradients are those of the bases."""
    shapes = {name: arguments[name].shape for name in chosen}

    def on_views(**given: Any) -> Tensor:
        views = {
            name: LAYOUTS[layout].view(given[name], *shapes[name])
            for name, layout in chosen.items()
        }
        return function(**{**given, **views})

    bases = {
        name: LAYOUTS[layout].base(arguments[name].detach()).requires_grad_()
        for name, layout in chosen.items()
    }
    return on_views, {**arguments, **bases}


def embedding_names(arguments: Mapping[str, Any]) -> list[str]:
    """Those that are trained: a guide's have no gradient."""
    return [
        n
        for n, v in arguments.items()
        if isinstance(v, Tensor) and v.ndim == 2 and not n.startswith("guide")
    ]
