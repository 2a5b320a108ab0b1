"""Every loss with the options it takes, and arguments made from one choice of them."""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch
from contrastile.losses.options import OWN_CHOICES, OWN_NUMBERS, OWN_SWITCHES
from contrastile.losses.registry import LOSSES as REGISTRY
from contrastile.losses.registry import LossEntry
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
SOME_IDS = ["few", "all equal", "all different"]
# What a loss takes beside, by the name of the option.
OWN: dict[str, list[Any]] = {
    "variant": ["out", "in"],
    "ids": [None, "few", "all equal"],
    "margin": [0.0, 0.2],
    "label_smoothing": [0.0, 0.1],
    "sigma": [0.5, 2.0],
    "beta": [1.0, 0.0],
    "tau_plus": [0.0, 0.1],
    "positives": [False, True],
    "negatives": [0, 5],
    "hard_negatives": [0, 3],
    "direction": ["both", "rows", "columns"],
    "margin_mode": ["absolute", "relative"],
    **{name: [True, False] for name in OWN_SWITCHES},
}
# What is no option of its own: a bias for each key, negatives of each row's own.
FURTHER: dict[str, dict[str, list[Any]]] = {
    "info_nce": {"bias": [*COMMON["bias"], "per key"], "negatives": [0, 5, "own"]},
    "qwen3_loss": {"margin": [0.1, 0.0]},
}
# Embeddings of a guide need not be as large as those of its student.
GUIDE_SIZE = 7


def options_of(entry: LossEntry) -> dict[str, list[Any]]:
    """The values of every option that a loss has, the default first."""
    options = dict(COMMON)
    if entry.row_scale and not entry.one_set:
        options["scale"] = PER_ROW_SCALE
    own = {**OWN, "ids": SOME_IDS} if entry.labels else OWN
    taken = {*entry.options, *(["ids"] if ids_taken(entry) else [])}
    options |= {name: values for name, values in own.items() if name in taken}
    return options | FURTHER.get(entry.name, {})


def ids_taken(entry: LossEntry) -> list[str]:
    """The names of the ids that a loss takes or can take."""
    return [n for n in (*entry.labels, *entry.options) if n.endswith(("ids", "labels"))]


EVERY = {name: options_of(entry) for name, entry in REGISTRY.items()}
# Those of one matrix of scores, and those that sweep over several.
LOSSES = {name: options for name, options in EVERY.items() if REGISTRY[name].passes}
SWEPT = {name: options for name, options in EVERY.items() if name not in LOSSES}
TWO_VIEWS = tuple(name for name, entry in REGISTRY.items() if entry.views == 2)
# What is passed as it was chosen.
PLAIN = {*OWN_NUMBERS, *OWN_CHOICES, *OWN_SWITCHES, "normalize", "reduction", "empty"}


def default_choice(loss: str, **changes: Any) -> Choice:
    """The first value of every option, and the changes."""
    return {**{name: values[0] for name, values in EVERY[loss].items()}, **changes}


def covering_choices(loss: str, strength: int, draws: int) -> list[Choice]:
    """Random choices of all options, less those that show no new combination of `strength`."""
    options = EVERY[loss]
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
    if choice.get("tau_plus") and choice["shape"][1] == 1:
        # Scores of unit vectors of size 1 meet the loss's bound, where its gradient jumps.
        return False
    if "query_query" in choice and choice["margin"] == 0.0 and choice["shape"][1] == 1:
        # Numbers of length 1 are at the limit, all of them.
        return False
    return not (choice["bias"] == "per key" and choice.get("negatives"))


def arguments_for(loss: str, choice: Choice, seed: int = 0) -> Arguments:
    """fp64 keyword arguments; every floating tensor but the weights asks for a gradient."""
    rng = generator(seed)
    rows, size = choice["shape"]
    columns = columns_for(loss, rows)
    arguments: Arguments = {name: choice[name] for name in choice if name in PLAIN}
    arguments |= embeddings(loss, rows, columns, size, choice, rng)
    arguments |= guides(loss, rows, choice.get("negatives", 0), rng)
    arguments |= scale_argument(choice["scale"], choice.get("value", 14.3), rows, rng)
    arguments |= bias_argument(loss, choice["bias"], columns, rng)
    arguments |= id_arguments(loss, choice.get("ids"), rows, columns, rng)
    if choice.get("positives"):
        arguments["positives"] = torch.randint(-1, columns, (rows,), generator=rng)
    if choice["weights"]:
        direction = choice.get("direction", "rows")
        count = {"rows": rows, "columns": columns, "both": rows + columns}[direction]
        arguments["weights"] = torch.rand(count, generator=rng, dtype=torch.float64)
    return arguments


def columns_for(loss: str, rows: int) -> int:
    """Keys beside ``rows`` queries: more where positives are told by index, fewer where by id."""
    if "positives" in EVERY[loss]:
        return rows + 3
    return rows // 2 + 1 if "key_ids" in REGISTRY[loss].labels else rows


def embeddings(
    loss: str, rows: int, columns: int, size: int, choice: Choice, rng: torch.Generator
) -> Arguments:
    make = crowded_pairs if choice.get("crowded") else overlapping_pairs
    pair = make(rows, columns, size, rng)
    made: dict[str, Tensor] = dict(zip(REGISTRY[loss].embeddings, pair, strict=False))
    if choice.get("negatives") == "own":
        made["negatives"] = own_negatives(rows, 4, size, rng)
    elif choice.get("negatives"):
        made["negatives"] = unit_rows(choice["negatives"], size, rng)
    if choice.get("hard_negatives"):
        made["hard_negatives"] = own_negatives(rows, choice["hard_negatives"], size, rng)
    if choice["normalize"]:
        made = {
            name: tensor * lengths(len(tensor), rng).view(-1, *[1] * (tensor.dim() - 1))
            for name, tensor in made.items()
        }
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def own_negatives(rows: int, count: int, size: int, rng: torch.Generator) -> Tensor:
    return unit_rows(rows * count, size, rng).view(rows, count, size)


def guides(loss: str, rows: int, negatives: int, rng: torch.Generator) -> Arguments:
    """Embeddings of a guide, of any length: they ask for no gradient."""
    if not REGISTRY[loss].guides:
        return {}
    made = dict(
        zip(REGISTRY[loss].guides, overlapping_pairs(rows, rows, GUIDE_SIZE, rng), strict=True)
    )
    if negatives:
        made["guide_negatives"] = unit_rows(negatives, GUIDE_SIZE, rng)
    return {name: tensor * lengths(len(tensor), rng) for name, tensor in made.items()}


def lengths(rows: int, rng: torch.Generator) -> Tensor:
    return 0.5 + torch.rand(rows, 1, generator=rng, dtype=torch.float64)


def scale_argument(kind: str, value: float, rows: int, rng: torch.Generator) -> Arguments:
    name, _, form = kind.partition(" ")
    values = 5 + 15 * torch.rand(rows, generator=rng, dtype=torch.float64)
    scale = values if form == "per row" else torch.tensor(value, dtype=torch.float64)
    scale = 1 / scale if name == "temperature" else scale
    return {name: scale.requires_grad_() if form else scale.item()}


def bias_argument(loss: str, kind: str | None, columns: int, rng: torch.Generator) -> Arguments:
    value = -3.0 if "logit_bias" in REGISTRY[loss].parameters else 0.7
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
    names = ids_taken(REGISTRY[loss])
    return {name: make(columns if name == "key_ids" else rows) for name in names}
