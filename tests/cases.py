"""Every loss with the options it takes, and arguments made from one choice of them."""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch
from helpers import Arguments, crowded_pairs, generator, overlapping_pairs, unit_rows
from torch import Tensor

Choice = dict[str, Any]

SHAPES = [(1, 3), (2, 1), (2, 33), (3, 3), (17, 1), (17, 33), (65, 3), (65, 33)]
COMMON: dict[str, list[Any]] = {
    "shape": SHAPES,
    "scale": ["temperature", "temperature tensor", "logit_scale", "logit_scale tensor"],
    "bias": [None, "float", "tensor"],
    "weights": [False, True],
    "normalize": [False, True],
    "reduction": ["mean", "sum", "none"],
    "empty": ["zero", "skip"],
}
PER_ROW_SCALE = [*COMMON["scale"], "temperature per row", "logit_scale per row"]
IDS = {"ids": [None, "few", "all equal"]}
MARGIN = {"margin": [0.0, 0.2]}
SMOOTHING = {"label_smoothing": [0.0, 0.1]}
VARIANT = {"variant": ["out", "in"]}

LOSSES: dict[str, dict[str, list[Any]]] = {
    "info_nce": {
        **COMMON,
        **IDS,
        **MARGIN,
        **SMOOTHING,
        "scale": PER_ROW_SCALE,
        "bias": [*COMMON["bias"], "per key"],
        "positives": [False, True],
        "negatives": [0, 5],
    },
    "clip_loss": {**COMMON, **IDS, **MARGIN, **SMOOTHING, "scale": PER_ROW_SCALE},
    "nt_xent": {**COMMON, **IDS, **MARGIN, **SMOOTHING},
    "dcl_loss": {**COMMON, **IDS, **MARGIN},
    "dclw_loss": {**COMMON, **IDS, **MARGIN, "sigma": [0.5, 2.0]},
    "supcon_loss": {**COMMON, **VARIANT, "ids": ["few", "all equal", "all different"]},
    "multi_positive_nce": {
        **COMMON,
        **VARIANT,
        "scale": PER_ROW_SCALE,
        "ids": ["few", "all equal", "all different"],
        "direction": ["both", "rows", "columns"],
    },
    "siglip_loss": {**COMMON, **IDS, "scale": PER_ROW_SCALE},
}
TWO_VIEWS = ("nt_xent", "dcl_loss", "dclw_loss")
PLAIN = {"margin", "label_smoothing", "normalize", "reduction", "empty", "variant", "direction"}


def default_choice(loss: str, **changes: Any) -> Choice:
    """The first value of every option, and the changes."""
    return {**{name: values[0] for name, values in LOSSES[loss].items()}, **changes}


def covering_choices(loss: str, strength: int, draws: int) -> list[Choice]:
    """Random choices of all options, less those that show no new combination of `strength`."""
    options = LOSSES[loss]
    rng = random.Random(loss)
    seen: set[tuple[Any, ...]] = set()
    chosen = []
    for _ in range(draws):
        choice = {name: rng.choice(values) for name, values in options.items()}
        new = set(itertools.combinations(sorted(choice.items()), strength)) - seen
        if new and allowed(choice):
            seen |= new
            chosen.append(choice)
    return chosen


def allowed(choice: Choice) -> bool:
    return not (choice["bias"] == "per key" and choice.get("negatives"))


def arguments_for(loss: str, choice: Choice, seed: int = 0) -> Arguments:
    """fp64 keyword arguments; every floating tensor but the weights asks for a gradient."""
    rng = generator(seed)
    rows, size = choice["shape"]
    columns = {"info_nce": rows + 3, "multi_positive_nce": rows // 2 + 1}.get(loss, rows)
    arguments: Arguments = {name: choice[name] for name in choice if name in PLAIN}
    arguments |= embeddings(loss, rows, columns, size, choice, rng)
    arguments |= scale_argument(choice["scale"], choice.get("value", 14.3), rows, rng)
    arguments |= bias_argument(loss, choice["bias"], columns, rng)
    arguments |= id_arguments(loss, choice.get("ids"), rows, columns, rng)
    if choice.get("sigma"):
        arguments["sigma"] = choice["sigma"]
    if choice.get("positives"):
        arguments["positives"] = torch.randint(-1, columns, (rows,), generator=rng)
    if choice["weights"]:
        direction = choice.get("direction", "rows")
        count = {"rows": rows, "columns": columns, "both": rows + columns}[direction]
        arguments["weights"] = torch.rand(count, generator=rng, dtype=torch.float64)
    return arguments


def embeddings(
    loss: str, rows: int, columns: int, size: int, choice: Choice, rng: torch.Generator
) -> Arguments:
    names = ("query", "key") if loss in ("info_nce", "multi_positive_nce") else ("x", "y")
    names = ("z0", "z1") if loss in TWO_VIEWS else names
    make = crowded_pairs if choice.get("crowded") else overlapping_pairs
    pair = make(rows, columns, size, rng)
    made: dict[str, Tensor] = dict(zip(names, pair, strict=True))
    if loss == "supcon_loss":
        made = {"z": pair[0]}
    if choice.get("negatives"):
        made["negatives"] = unit_rows(choice["negatives"], size, rng)
    if choice["normalize"]:
        made = {name: tensor * lengths(len(tensor), rng) for name, tensor in made.items()}
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def lengths(rows: int, rng: torch.Generator) -> Tensor:
    return 0.5 + torch.rand(rows, 1, generator=rng, dtype=torch.float64)


def scale_argument(kind: str, value: float, rows: int, rng: torch.Generator) -> Arguments:
    name, _, form = kind.partition(" ")
    values = 5 + 15 * torch.rand(rows, generator=rng, dtype=torch.float64)
    scale = values if form == "per row" else torch.tensor(value, dtype=torch.float64)
    scale = 1 / scale if name == "temperature" else scale
    return {name: scale.requires_grad_() if form else scale.item()}


def bias_argument(loss: str, kind: str | None, columns: int, rng: torch.Generator) -> Arguments:
    value = -3.0 if loss == "siglip_loss" else 0.7
    if kind == "per key":
        return {
            "logit_bias": torch.randn(
                columns, generator=rng, dtype=torch.float64, requires_grad=True
            )
        }
    if kind == "tensor":
        return {"logit_bias": torch.tensor(value, dtype=torch.float64, requires_grad=True)}
    return {"logit_bias": value} if kind == "float" else {}


def id_arguments(
    loss: str, kind: str | None, rows: int, columns: int, rng: torch.Generator
) -> Arguments:
    if kind is None:
        return {}
    makers = {
        "few": lambda count: torch.randint(0, rows // 2 + 1, (count,), generator=rng),
        "all equal": lambda count: torch.full((count,), 7),
        "all different": lambda count: torch.randperm(count, generator=rng),
    }
    make = makers[kind]
    if loss in ("info_nce", "multi_positive_nce"):
        return {"query_ids": make(rows), "key_ids": make(columns)}
    return {"labels" if loss == "supcon_loss" else "ids": make(rows)}
