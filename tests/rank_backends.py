"""Losses over ranks by every backend, and with parameters of every shape: what ranks run."""

from __future__ import annotations

import contrastile.native
import oracles
import torch
import torch.distributed as dist
from cases import default_choice
from contrastile import functional
from helpers import assert_results_close, cast
from interpreter import correct
from rank_cases import Layout, detached, leaves, of_all, parts_of, places

correct()

UNEVEN = Layout((5, 1, 7, 2))
# Of the largest number: sums in another order, and a rounding of results.
BOUNDS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2}


def against_oracle(
    loss: str, dtype: torch.dtype, exchange: str, backend: str, native: bool = True
) -> None:
    """A step of this rank, in the dtype of embeddings, against fp64 on the same numbers."""
    choice = default_choice(loss, shape=(4, 12), scale="logit_scale tensor")
    if loss == "siglip_loss":
        choice["bias"] = "tensor"
    names = ("x", "y", "z")
    parts = [cast(part, dtype, *names) for part in parts_of(loss, choice, UNEVEN, 0)]
    for part in parts:
        part |= cast(part, torch.promote_types(dtype, torch.float32), "logit_scale", "logit_bias")
    whole = cast(of_all(loss, parts), torch.float64)
    truth = getattr(oracles, loss)(**whole)
    truth.backward()

    place, load = dist.get_rank(), contrastile.native.load
    own = detached(parts[place])
    options = {"exchange": exchange, "grad_scale": "none", "backend": backend}
    if not native:
        contrastile.native.load = lambda: None
    try:
        found = getattr(functional, loss)(**own, group=dist.group.WORLD, **options)
        found.backward()
    finally:
        contrastile.native.load = load
    rows = places(loss, parts, place)
    got, wanted = {"loss": found.detach()}, {"loss": truth.detach()}
    for name, leaf in leaves(own).items():
        grad = whole[name].grad
        assert leaf.grad is not None and grad is not None
        got[name], wanted[name] = leaf.grad, grad if grad.dim() == 0 else grad[rows]
    assert_results_close(got, wanted, BOUNDS[dtype], BOUNDS[dtype] * 1e-2)
