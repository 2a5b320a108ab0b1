"""What ranks say when one of them was given something else, or something wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from contrastile import (
    MemoryQueue,
    clip_loss,
    functional,
    info_nce,
    matryoshka,
    siglip_loss,
    supcon_loss,
)
from contrastile.losses.registry import LOSSES
from processes import FAILURES
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.fx.experimental.proxy_tensor import make_fx

SIZE = 6
# The rank that is not as the others.
ODD = 2
Given = dict[str, Any]


def given() -> Given:
    """Of each rank another number of rows."""
    rng = torch.Generator().manual_seed(dist.get_rank())
    rows = dist.get_rank() + 2
    x, y = (torch.randn(rows, SIZE, generator=rng).requires_grad_() for _ in range(2))
    return {"x": x, "y": y, "temperature": 0.5}


def cast(own: Given, dtype: torch.dtype) -> Given:
    return {**own, **{name: own[name].detach().to(dtype).requires_grad_() for name in "xy"}}


def narrow(own: Given) -> Given:
    return {**own, **{name: own[name][:, 1:] for name in "xy"}}


def many(own: Given) -> Given:
    return {**own, **{name: own[name][None] for name in "xy"}}


def short_ids(own: Given) -> Given:
    return {**own, "ids": torch.zeros(len(own["x"]) - 1, dtype=torch.int64)}


# What the odd rank gives in another way, which is the same. All of them differ from the default.
ALIKE: dict[str, tuple[Given, Given]] = {
    "whole numbers": ({"margin": 1}, {"margin": 1.0}),
    "numpy's": ({"margin": 0.25}, {"margin": np.float64(0.25)}),
    "numpy's whole numbers": ({"workspace": 2**20}, {"workspace": np.int64(2**20)}),
    "a default": ({}, {"reduction": "mean", "label_smoothing": 0, "ids": None}),
}

# What the odd rank does, and what every rank says.
DIFFERENCES: dict[str, tuple[Callable[[Given], Given], str]] = {
    "dtype": (
        lambda own: cast(own, torch.float64),
        r"x \(rank 0 float32 \[rows, 6\] .*, rank 2 float64 \[rows, 6\]",
    ),
    "size": (narrow, r"x \(rank 0 float32 \[rows, 6\] .*, rank 2 float32 \[rows, 5\]"),
    "temperature": (lambda own: {**own, "temperature": 0.4}, r"rank 1 0\.5, rank 2 0\.4"),
    "option": (lambda own: {**own, "reduction": "sum"}, "rank 1 nothing, rank 2 'sum'"),
    "convention": (lambda own: {**own, "grad_scale": "sum"}, "grad_scale .*rank 2 'sum'"),
    "exchange": (lambda own: {**own, "exchange": "ring"}, "exchange .*rank 2 'ring'"),
    "arguments": (
        lambda own: {**own, "ids": torch.arange(len(own["x"]))},
        r"ids \(rank 0 nothing, .*rank 2 int64 \[rows\]",
    ),
    "kind of scale": (
        lambda own: {**own, "temperature": torch.tensor(0.5)},
        r"temperature \(rank 0 0\.5, .*rank 2 float32 \[\]",
    ),
    "gradient": (
        lambda own: {**own, "x": own["x"].detach()},
        r"x \(rank 0 .* with gradient, rank 1 .* with gradient, rank 2 float32 \[rows, 6\] on cpu,",
    ),
    "shape of scale": (
        lambda own: {**own, "temperature": torch.full((len(own["x"]),), 0.5)},
        r"rank 2 float32 \[rows\]",
    ),
}
# What the odd rank finds wrong by itself: its own error, and the others hear of it.
FAULTS: dict[str, tuple[Callable[[Given], Given], str]] = {
    "ids": (short_ids, r"ids must have shape \(4,\), got \(3,\)"),
    "temperature": (lambda own: {**own, "temperature": -1.0}, "temperature must be positive"),
    "tensor": (
        lambda own: {**own, "temperature": torch.tensor(-1.0)},
        "temperature must be positive, got -1",
    ),
    "no temperature": (lambda own: {"x": own["x"], "y": own["y"]}, "got neither"),
    "dimensions": (many, r"x must be \[rows, embedding size\]"),
    "rows": (lambda own: {**own, "y": own["y"][1:]}, "row i of x belongs to row i of y"),
    "unknown option": (lambda own: {**own, "temprature": 1.0}, "no option 'temprature'"),
    "choice": (lambda own: {**own, "reduction": "median"}, "reduction must be one of"),
    "backend": (lambda own: {**own, "backend": "tpu"}, "backend must be one of"),
    "type": (lambda own: {**own, "x": own["x"].tolist()}, "x must be a tensor, got list"),
    "type of option": (lambda own: {**own, "margin": "0.2"}, "margin must be a number"),
    "bias": (lambda own: {**own, "logit_bias": torch.zeros(3)}, "logit_bias must be a float"),
    "array": (
        lambda own: {**own, "weights": np.ones(len(own["x"]))},
        "weights must be a tensor, got ndarray",
    ),
    "missing": (lambda own: {"x": own["x"], "temperature": 0.5}, "missing 1 required positional"),
}


def told(call: Callable[[], Any]) -> tuple[str, str]:
    """The type and the text of the error, which comes in seconds; after it the group works."""
    start = time.monotonic()
    try:
        call()
    except FAILURES as error:
        found = type(error).__name__, str(error)
    else:
        raise AssertionError("no error")
    assert time.monotonic() - start < 20
    correct_call()
    return found


def correct_call() -> None:
    own = given()
    loss = clip_loss(**own, group=dist.group.WORLD)
    loss.backward()
    first = loss.detach().clone()
    dist.broadcast(first, 0)
    assert torch.equal(first, loss.detach())


def of_odd_rank(table: str, name: str) -> tuple[str, str]:
    change, _ = {"differences": DIFFERENCES, "faults": FAULTS}[table][name]
    own = given()
    if dist.get_rank() == ODD:
        own = change(own)
    return told(lambda: clip_loss(**own, group=dist.group.WORLD))


def alike(name: str) -> None:
    """What is the same in another way is agreed on."""
    own = given() | ALIKE[name][dist.get_rank() == ODD]
    clip_loss(**own, group=dist.group.WORLD).backward()
    tensors = [own.pop(side) for side in "xy"]
    dims = [2, SIZE] if dist.get_rank() == ODD else (2, SIZE)
    matryoshka(clip_loss, *tensors, dims=dims, temperature=0.5, group=dist.group.WORLD).backward()
    correct_call()


def without_gradients() -> tuple[str, str]:
    def call() -> None:
        with torch.set_grad_enabled(dist.get_rank() != ODD):
            clip_loss(**given(), group=dist.group.WORLD)

    return told(call)


def another_loss() -> tuple[str, str]:
    function = siglip_loss if dist.get_rank() == ODD else clip_loss
    return told(lambda: function(**given(), group=dist.group.WORLD))


def wrong_by_rows(loss: str) -> tuple[str, str]:
    """One bias a row, which only the odd rank may take for a number: it has one row."""
    rows = 1 if dist.get_rank() == ODD else 3
    z, bias = torch.randn(rows, SIZE), torch.zeros(rows)
    entry = LOSSES[loss]
    tensors = [z] * len(entry.embeddings)
    labels = [torch.zeros(rows, dtype=torch.int64)] * len(entry.labels)
    function = getattr(functional, loss)
    options = {"temperature": 0.5, "logit_bias": bias, "group": dist.group.WORLD}
    return told(lambda: function(*tensors, *labels, **options))


def empty_row(exchange: str) -> tuple[str, str]:
    """One label of the odd rank has no other item."""
    rank = dist.get_rank()
    labels = torch.tensor([0, 1, 0, 1] if rank != ODD else [0, 1, 7, 1])
    z = torch.randn(4, SIZE)
    call = {"empty": "error", "temperature": 0.5, "exchange": exchange}
    return told(lambda: supcon_loss(z, labels, group=dist.group.WORLD, **call))


def of_group(kind: str) -> tuple[str, str]:
    """Of what is no group, on all ranks."""
    # Every rank makes every group; none is a member of the one that it takes.
    alone = [dist.new_group([rank]) for rank in range(4)]
    groups: dict[str, object] = {
        "text": "dp",
        "number": 0,
        "mesh": init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp")),
        "not a member": alone[(dist.get_rank() + 1) % 4],
    }
    group = groups[kind]
    return told(lambda: clip_loss(**given(), group=group))


def of_trace(kind: str) -> tuple[str, str]:
    x, y = (given()[name].detach() for name in "xy")

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = functional.clip_loss(a, b, temperature=0.5, group=dist.group.WORLD)
        return found

    def fake() -> None:
        with FakeTensorMode() as mode:
            loss(mode.from_tensor(x), mode.from_tensor(y))

    def fake_outside() -> None:
        mode = FakeTensorMode()
        loss(mode.from_tensor(x), mode.from_tensor(y))

    calls: dict[str, Callable[[], Any]] = {
        "make_fx": lambda: make_fx(loss)(x, y),
        "symbols": lambda: make_fx(loss, tracing_mode="symbolic")(x, y),
        "fake tensors": fake,
        "fake tensors outside of their mode": fake_outside,
        "grad": lambda: torch.func.grad(loss)(x, y),
        "vmap": lambda: torch.vmap(loss)(x[None], y[None]),
    }
    return told(calls[kind])


# What is no loss by itself, and how each rank is given it; the odd one differently.


def prefixes(name: str) -> tuple[str, str]:
    """matryoshka, whose prefixes or weights of the odd rank are others."""
    odd = dist.get_rank() == ODD
    own: dict[str, dict[str, Any]] = {
        "dims": {"dims": (3, 5, 6) if odd else (3, 6)},
        "dim_weights": {"dims": (3, 6), "dim_weights": (1.0, 2.0) if odd else (1.0, 1.0)},
        "a wrong size": {"dims": (3, 7) if odd else (3, 6)},
        "no sequence": {"dims": 5 if odd else (3, 6)},
        "weights that are text": {"dims": (3, 6), "dim_weights": "ab" if odd else (1.0, 1.0)},
    }
    arguments = given()
    tensors = [arguments.pop(side) for side in "xy"]
    options = {**arguments, **own[name], "group": dist.group.WORLD}
    return told(lambda: matryoshka(clip_loss, *tensors, **options))


def queue_of_another_dtype() -> tuple[str, str]:
    dtype = torch.float16 if dist.get_rank() == ODD else torch.float32
    queue = MemoryQueue(8, SIZE, dtype=dtype)
    return told(lambda: queue.enqueue(torch.randn(2, SIZE), group=dist.group.WORLD))


def biases_of_few_keys(exchange: str) -> tuple[float, float, float]:
    """info_nce with a bias a key, of which the odd rank has one: loss, sum of gradients, truth."""
    rng = torch.Generator().manual_seed(0)
    sizes = [1 if rank == ODD else 3 for rank in range(dist.get_world_size())]
    x, y = (torch.randn(sum(sizes), SIZE, generator=rng) for _ in range(2))
    bias = torch.randn(sum(sizes), generator=rng)
    scores = x @ y.T + bias
    truth = (scores.logsumexp(1) - scores.diag()).mean()
    own = [each.split(sizes)[dist.get_rank()] for each in (x, y, bias)]
    learned = own[2].clone().requires_grad_()
    options = {"logit_scale": 1.0, "exchange": exchange, "group": dist.group.WORLD}
    loss = info_nce(own[0], own[1], logit_bias=learned, grad_scale="sum", **options)
    loss.backward()
    total = learned.grad.sum().double()
    dist.all_reduce(total)
    return loss.item(), total.item(), truth.item()
