"""Losses over the rows of several ranks against oracles of all rows, in fp64: what ranks run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from inspect import signature
from typing import Any

import oracles
import torch
import torch.distributed as dist
from cases import TWO_VIEWS, Choice, arguments_for
from contrastile import functional, verify_ranks
from contrastile.losses.registry import LOSSES as REGISTRY
from contrastile.parallel.collectives import Collectives
from helpers import Arguments
from processes import FAILURES, TIMEOUT
from torch import Tensor

# Of sums in fp64 in another order.
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Layout:
    """How many rows each member of a group has, and who the members are, in their order."""

    sizes: tuple[int, ...]
    members: tuple[int, ...] | None = None


LAYOUTS = {
    "even": Layout((3, 3, 3, 3)),
    "uneven": Layout((5, 1, 7, 2)),
    "empty": Layout((4, 0, 3, 0)),
    "all on the last": Layout((0, 0, 0, 6)),
    "sub-group": Layout((4, 2), (1, 3)),
    "shuffled": Layout((2, 5, 1, 3), (2, 0, 3, 1)),
    "one": Layout((5,), (2,)),
}
GROUPS: dict[tuple[int, ...], dist.ProcessGroup] = {}


def new_group(members: tuple[int, ...]) -> dist.ProcessGroup:
    """In this order, where torch can keep one."""
    options: dict[str, Any] = {"timeout": timedelta(seconds=TIMEOUT)}
    if "sort_ranks" in signature(dist.new_group).parameters:
        options["sort_ranks"] = False
    return dist.new_group(list(members), **options)


def group_of(layout: Layout) -> dist.ProcessGroup:
    """All ranks come here in the same order, members or not."""
    if layout.members is None:
        return dist.group.WORLD
    if layout.members not in GROUPS:
        GROUPS[layout.members] = new_group(layout.members)
    return GROUPS[layout.members]


def parts_of(loss: str, choice: Choice, layout: Layout, seed: int) -> list[Arguments]:
    """The arguments of each member; what all share is one tensor."""
    parts = []
    for place, rows in enumerate(layout.sizes):
        own = {**choice, "shape": (rows, choice["shape"][1])}
        arguments = arguments_for(loss, own, seed + place)
        if "weights" in arguments:
            arguments["weights"].requires_grad_()
        parts.append(arguments)
    for name, value in parts[0].items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            for part in parts[1:]:
                part[name] = value
    return parts


def of_all(loss: str, parts: Sequence[Arguments]) -> Arguments:
    """The arguments of one process that has all rows, made of those of the parts."""
    whole = dict(parts[0])
    keys = [0]
    for part in parts:
        keys.append(keys[-1] + len(part.get("key", ())))
    for name, value in parts[0].items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            continue
        values = [part[name] for part in parts]
        if name == "positives":
            values = [
                torch.where(own >= 0, own + start, -1)
                for own, start in zip(values, keys, strict=False)
            ]
        if name == "weights" and parts[0].get("direction") == "both":
            rows = [len(part["query"]) for part in parts]
            split = [own.split([n, len(own) - n]) for own, n in zip(values, rows, strict=True)]
            values = [own[side] for side in range(2) for own in split]
        whole[name] = torch.cat(values)
    if "positives" in REGISTRY[loss].options and "positives" not in whole:
        # Of each rank row i belongs to its own key i, and there are more keys than rows.
        counts = [(len(part["query"]), start) for part, start in zip(parts, keys, strict=False)]
        whole["positives"] = torch.cat([torch.arange(start, start + n) for n, start in counts])
    return whole


def places(loss: str, parts: Sequence[Arguments], place: int) -> Tensor:
    """Which of all rows' losses are those of a member."""

    def block(lengths: list[int], before: int) -> Tensor:
        start = before + sum(lengths[:place])
        return torch.arange(start, start + lengths[place])

    rows = [len(part[REGISTRY[loss].embeddings[0]]) for part in parts]
    if loss in TWO_VIEWS:
        return torch.cat([block(rows, 0), block(rows, sum(rows))])
    if loss == "multi_positive_nce":
        keys = [len(part["key"]) for part in parts]
        sides = {
            "rows": [(rows, 0)],
            "columns": [(keys, 0)],
            "both": [(rows, 0), (keys, sum(rows))],
        }
        return torch.cat([block(*side) for side in sides[parts[0].get("direction", "both")]])
    return block(rows, 0)


def leaves(arguments: Arguments) -> dict[str, Tensor]:
    return {k: v for k, v in arguments.items() if isinstance(v, Tensor) and v.requires_grad}


def detached(arguments: Arguments) -> Arguments:
    return {
        k: v.detach().clone().requires_grad_(v.requires_grad) if isinstance(v, Tensor) else v
        for k, v in arguments.items()
    }


def compare(
    loss: str,
    choice: Choice,
    layout: Layout,
    seed: int,
    convention: str,
    vectors: bool = False,
    **options: Any,
) -> None:
    """Value and gradients of a member against those of one process; with ``vectors`` a number that
    all share is given as [1].
    """
    group = group_of(layout)
    if layout.members is not None and dist.get_rank() not in layout.members:
        return
    place = dist.get_rank(group)
    parts = parts_of(loss, choice, layout, seed)
    own = detached(parts[place])
    truth = getattr(oracles, loss)(**of_all(loss, parts))
    shaped = {
        name: value.reshape(1)
        if vectors and isinstance(value, Tensor) and not value.dim()
        else value
        for name, value in own.items()
    }
    found = getattr(functional, loss)(**shaped, group=group, grad_scale=convention, **options)
    if choice["reduction"] == "none":
        rng = torch.Generator().manual_seed(seed)
        upstream = torch.rand(len(truth), generator=rng, dtype=torch.float64)
        rows = places(loss, parts, place)
        close("rows", found, truth[rows])
        (truth * upstream).sum().backward()
        (found * upstream[rows]).sum().backward()
    else:
        close("value", found, truth)
        truth.backward()
        found.backward()
    world = len(layout.sizes)
    for name, leaf in leaves(own).items():
        shared = leaf.dim() == 0
        grad = leaf.grad
        assert grad is not None, f"{name} has no gradient on rank {place}"
        if shared and convention != "none":
            grad = grad.clone()
            dist.all_reduce(grad, group=group)
        if convention == "ddp" and choice["reduction"] != "none":
            grad = grad / world
        wanted = parts[0 if shared else place][name].grad
        close(name, grad, torch.zeros_like(grad) if wanted is None else wanted)


def close(name: str, found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape, f"{name}: {found.shape} for {wanted.shape}"
    if not wanted.numel():
        return
    size = max(1.0, float(wanted.abs().max()))
    error = float((found - wanted).abs().max())
    assert error <= TOLERANCE * size, f"{name}: {found} for {wanted}"


def compare_all(cases: Sequence[tuple[Any, ...]]) -> int:
    """Many cases in one go; each names itself where it fails."""
    for loss, choice, layout, seed, convention, options in cases:
        try:
            compare(loss, choice, LAYOUTS[layout], seed, convention, **options)
        except FAILURES as error:
            raise AssertionError(f"{loss} {choice} {layout} {convention} {options}") from error
    return len(cases)


def spoilt_check() -> bool:
    """Whether a loss of this rank's rows alone passes for one of all rows."""
    entry = REGISTRY["clip_loss"]

    def alone(x: Tensor, y: Tensor, *, group: object, exchange: str, **options: Any) -> Tensor:
        value: Tensor = functional.clip_loss(x, y, **options)
        return value

    group = dist.group.WORLD
    assert group is not None
    ranks = verify_ranks.Ranks(Collectives(group), torch.device("cpu"))
    _, right = verify_ranks.check(ranks, replace(entry, function=alone), "fp32", "gather")
    return right
