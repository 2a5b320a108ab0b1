"""Late interaction over ranks against one process that has all queries and documents."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from contrastile import InputError, max_sim_info_nce
from helpers import generator

# How many queries each rank has.
SIZES = {"even": (3, 3), "uneven": (4, 1), "none on one": (0, 5)}
LEAVES = ("query_tokens", "document_tokens", "logit_scale")


def arguments(seed: int, n: int) -> dict[str, Any]:
    """Of one rank."""
    rng = generator(seed)
    made = {
        "query_tokens": torch.randn(n, 3, 5, generator=rng, dtype=torch.float64),
        "document_tokens": torch.randn(n, 4, 5, generator=rng, dtype=torch.float64),
        "query_mask": torch.rand(n, 3, generator=rng) < 0.8,
        "document_mask": torch.rand(n, 4, generator=rng) < 0.6,
        "logit_scale": torch.tensor(0.7, dtype=torch.float64),
    }
    return {k: v.requires_grad_() if k in LEAVES else v for k, v in made.items()}


def compare(sizes: tuple[int, ...], convention: str, options: dict[str, Any]) -> None:
    """Loss and gradients, of what is averaged or summed over ranks."""
    rank, world = dist.get_rank(), dist.get_world_size()
    parts = [arguments(place, n) for place, n in enumerate(sizes)]
    whole = {
        name: value if name == "logit_scale" else torch.cat([part[name] for part in parts])
        for name, value in parts[0].items()
    }
    whole = {k: v.detach().requires_grad_(v.requires_grad) for k, v in whole.items()}
    expected = max_sim_info_nce(**whole, **options)
    own = parts[rank]
    group = {"group": dist.group.WORLD, "grad_scale": convention}
    loss = max_sim_info_nce(**own, **options, **group)
    before = sum(sizes[:rank])
    rows = slice(before, before + sizes[rank])
    expected_own = expected[rows] if options.get("reduction") == "none" else expected
    torch.testing.assert_close(loss, expected_own)
    expected.sum().backward()
    loss.sum().backward()
    scale = own["logit_scale"].grad.clone()
    if convention != "none":
        dist.all_reduce(scale)
    averaged = convention == "ddp" and options.get("reduction") != "none"
    if averaged:
        scale /= world
    torch.testing.assert_close(scale, whole["logit_scale"].grad)
    share = world if averaged else 1
    for name in LEAVES[:2]:
        torch.testing.assert_close(own[name].grad, share * whole[name].grad[rows])


def refuse() -> None:
    """What a group does not do."""
    own = arguments(0, 2)
    group = {"group": dist.group.WORLD}
    for options, match in (
        ({"exchange": "ring"}, "exchange='ring' is not for documents"),
        ({"document_tokens": torch.randn(3, 4, 5), "document_mask": None}, "as many documents as"),
    ):
        try:
            max_sim_info_nce(**{**own, **options}, **group)
        except InputError as error:
            assert match in str(error), error
        else:
            raise AssertionError(f"{options} is no error")
