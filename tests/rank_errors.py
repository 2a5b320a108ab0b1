"""Rounded losses over four ranks, for the error rule; and numbers that are not finite."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from contrastile import clip_loss, functional
from helpers import Arguments, Results, upstream_of
from test_error_rule import draw
from torch import Tensor

# Shares of the 107 rows of a draw.
SIZES = (40, 7, 33, 27)


def own_part(arguments: Arguments) -> Arguments:
    """This rank's rows, as leaves; what all share is shared."""

    def part(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        wanted = value.requires_grad
        own = value.split(SIZES)[dist.get_rank()] if value.dim() else value
        return own.detach().clone().requires_grad_(wanted)

    return {name: part(value) for name, value in arguments.items()}


def results(
    loss: str, regime: str, scale: float, dtype: torch.dtype, draws: int, exchange: str
) -> list[Results]:
    """This rank's losses of rows and gradients of embeddings, and the whole ones of parameters."""
    found = []
    function = getattr(functional, loss)
    for seed in range(draws):
        arguments = own_part(draw(loss, regime, scale, dtype, seed))
        options = {"group": dist.group.WORLD, "exchange": exchange, "grad_scale": "none"}
        with torch.no_grad():
            rows = function(**{**arguments, "reduction": "none"}, **options)
        mean = function(**arguments, **options)
        mean.backward(upstream_of(mean))
        leaves = {n: t.grad for n, t in arguments.items() if isinstance(t, Tensor)}
        own = {name: grad for name, grad in leaves.items() if grad is not None}
        found.append({"rows": rows, "loss": mean.detach(), **own})
    return found


def with_a_wrong_row(loss: str, value: float, exchange: str) -> tuple[float, float]:
    """The loss on this rank where one row of rank 2 is not finite, and all gradients summed."""
    parameter = {"logit_bias": -1.0} if loss == "siglip_loss" else {}
    rows = [torch.randn(4, 5, dtype=torch.float64) for _ in range(2)]
    if dist.get_rank() == 2:
        rows[0][1, 3] = value
    if loss == "supcon_loss":
        tensors: tuple[Tensor, ...] = rows[0].requires_grad_(), torch.tensor([0, 1, 0, 1])
    else:
        tensors = tuple([each.requires_grad_() for each in rows])
    options = {"logit_scale": 2.0, "exchange": exchange, "group": dist.group.WORLD}
    found = getattr(functional, loss)(*tensors, **options, **parameter)
    found.backward()
    grads = [each.grad for each in tensors if each.grad is not None]
    return found.item(), sum(grad.sum().item() for grad in grads)


def at_scale(scale: float, exchange: str) -> tuple[float, float]:
    """clip_loss of all ranks, and of one process, where scores are huge."""
    torch.manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(sum(SIZES), 8), dim=1) for _ in range(2))
    options = {"logit_scale": scale, "exchange": exchange, "group": dist.group.WORLD}
    own = [each.split(SIZES)[dist.get_rank()] for each in (x, y)]
    return clip_loss(*own, **options).item(), clip_loss(x, y, logit_scale=scale).item()
