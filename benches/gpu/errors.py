"""The section ``errors``: the rule of tests/test_error_rule.py, on the device.

Its pairs, formulas and verdicts are those of the tests, which lie beside the benches in a checkout.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
from contrastile import functional
from contrastile.losses.registry import LOSSES
from torch import Tensor

from ..cases import DTYPES
from .pool import cells
from .record import ROOT, Outcome, Row
from .settings import Settings

Results = dict[str, Tensor]
SELF_MODE = {"nt_xent", "dcl_loss", "dclw_loss", "supcon_loss"}
ONE_SUM_FOR_TWO = 2**0.5
SCALES = (1.0, 14.3, 50.0, 100.0)


class Shape(NamedTuple):
    """Rows and features; a small workspace makes several strips. ``layout``: see ``laid_out``."""

    rows: int
    size: int
    workspace: int | None = None
    layout: str = "rows"


# Nothing a tile divides. Small ones in one strip launch the general form alone, all others both;
# from 768 features on half precision keeps dot products.
SHAPES = (
    Shape(307, 136),
    Shape(2100, 512),
    Shape(1021, 136, 2**19, "strided"),
    Shape(501, 77, 2**18, "unaligned"),
    Shape(307, 776),
    Shape(77, 77),
)
# Half precision first: what the device is for. Each size of embeddings is compiled anew, a minute
# for all of a loss: so many shapes of each dtype.
COUNTS = {"bf16": len(SHAPES), "fp32": 4, "fp16": 2}
# What luck is granted shrinks as one over the root of them.
DRAWS = 24
GPU = torch.device("cuda", 0)


@dataclass(frozen=True)
class Rule:
    """One loss at one dtype and shape, over scales; ``later``: not in a quick pass."""

    loss: str
    dtype: str
    shape: Shape
    scales: tuple[float, ...] = SCALES
    draws: int = DRAWS
    device: torch.device = GPU
    backend: str = "triton"
    later: bool = False

    def __str__(self) -> str:
        workspace = "" if self.shape.workspace is None else f", workspace {self.shape.workspace}"
        layout = "" if self.shape.layout == "rows" else f", {self.shape.layout}"
        size = f"{self.shape.rows} x {self.shape.size}"
        return f"{self.loss} {self.dtype} {size}{workspace}{layout}"


def errors_section(
    settings: Settings,
    rules: Sequence[Rule] | None = None,
    judging: Callable[[Rule], list[Row]] | None = None,
) -> Outcome:
    """Every loss at every dtype, by ``judge`` or another way to judge a rule."""
    if rules is None:
        rules = all_rules(settings.device, settings.backend)
    found = cells(
        partial(judge_as_row, judging=judging or judge),
        {str(rule): rule for rule in rules},
        settings,
        later=lambda rule: rule.later,
    )
    wrong: list[str] = []
    worst: dict[str, float] = {}
    for name, row in found.items():
        if "error" in row:
            wrong.append(f"{name}: {row['error']}")
            continue
        worst[row["dtype"]] = max(worst.get(row["dtype"], 0.0), row["share"])
        if row["beyond"]:
            where = f"{row['what']} at scale {row['scale']}"
            count = f"{len(row['beyond'])} of {row['compared']}"
            wrong.append(f"{name}: {count}, {row['share']:.3g}x for {where}")
    numbers = {f"worst share {dtype}": share for dtype, share in worst.items()}
    return Outcome.of(wrong, {"settings": len(found), **numbers})


def all_rules(device: torch.device, backend: str) -> list[Rule]:
    """Every dtype of every loss; a quick pass has the first shape of each."""
    return [
        Rule(loss, dtype, shape, device=device, backend=backend, later=shape != SHAPES[0])
        for dtype, count in COUNTS.items()
        for shape in SHAPES[:count]
        for loss in LOSSES
    ]


def judge_as_row(rule: Rule, judging: Callable[[Rule], list[Row]] | None = None) -> Row:
    """The worst of a rule, and all that are beyond it."""
    found = (judging or judge)(rule)
    top = max(found, key=lambda row: row["share"])
    beyond = [row for row in found if row["share"] > 1]
    own = {"loss": rule.loss, "dtype": rule.dtype, "shape": list(rule.shape)}
    return {**own, "compared": len(found), **top, "beyond": beyond}


def judge(rule: Rule) -> list[Row]:
    """For each output the share of its budget that the error takes: beyond 1 the rule is broken."""
    return [{**row, "scale": scale} for scale in rule.scales for row in compare(rule, scale)]


def compare(rule: Rule, scale: float) -> list[Row]:
    """One setting: every output over all draws."""
    oracle, shape = getattr(tests("oracles"), rule.loss), rule.shape
    ours = partial(getattr(functional, rule.loss), backend=rule.backend, workspace=shape.workspace)
    draws = [at_scale(rule, draw(rule, seed), scale) for seed in range(rule.draws)]
    got = [evaluate(ours, own) for own in draws]
    # The oracles make their index tensors on the default device.
    with rule.device:
        exact = [evaluate(oracle, cast(own, torch.float64)) for own in draws]
        # The order of a sum is luck too, so each draw takes its own.
        plain = [in_order(oracle, own, seed) for seed, own in enumerate(draws)]
    return [
        row
        for name in got[0]
        for row in judged(
            name,
            [[result[name] for result in results] for results in (got, plain, exact)],
            ONE_SUM_FOR_TWO if rule.loss in SELF_MODE and got[0][name].dim() == 2 else 1.0,
        )
    ]


def judged(what: str, values: list[list[Tensor]], allowed: float) -> list[Row]:
    """The share of what is allowed that an error takes, for each way to measure errors of ours,
    the plain formula's and the exact values; NaN and infinity are all of it.
    """
    rows = []
    for verdict in tests("rule").judge(what, *values, allowed):
        luck = math.exp(tests("rule").CERTAIN * verdict.spread)
        limit = allowed * verdict.plain * luck + verdict.rounding
        # Where the plain formula is not finite, anything finite is no worse.
        part = verdict.ours / limit if limit else (0.0 if verdict.ours == 0 else math.inf)
        part = part if math.isfinite(limit) else 0.0
        share = part if math.isfinite(verdict.ours) else math.inf
        figures = {"ours": verdict.ours, "plain": verdict.plain, "luck": luck}
        rows.append({"what": verdict.what, **figures, "share": share})
    return rows


@cache
def draw(rule: Rule, seed: int) -> dict[str, Any]:
    """Arguments at the rule's dtype on its device, but for scale and bias."""
    cases = tests("cases")
    size = (rule.shape.rows, rule.shape.size)
    choice = cases.default_choice(
        rule.loss, shape=size, scale="logit_scale tensor", value=1.0, crowded=True
    )
    made = cases.arguments_for(rule.loss, choice, seed)
    return {
        name: value.to(rule.device) if isinstance(value, Tensor) else value
        for name, value in cast(made, DTYPES[rule.dtype]).items()
    }


def at_scale(rule: Rule, arguments: dict[str, Any], scale: float) -> dict[str, Any]:
    """All arguments, laid out anew; the scale and the bias stay fp32."""
    arguments = {**arguments, "logit_scale": torch.tensor(scale, device=rule.device)}
    if rule.loss == "siglip_loss":
        arguments["logit_bias"] = torch.tensor(-0.9 * scale, device=rule.device)
    layout = rule.shape.layout
    return {
        name: learned(name, laid_out(value.detach(), layout)) if is_float(value) else value
        for name, value in arguments.items()
    }


def laid_out(value: Tensor, layout: str) -> Tensor:
    """The same numbers: as rows, as rows that begin at no multiple of 16 bytes, or as every other
    column of a matrix.
    """
    if value.dim() != 2 or layout == "rows":
        return value
    rows, size = value.shape
    if layout == "unaligned":
        place = value.new_empty(rows, size + 1)[:, 1:]
    elif layout == "strided":
        place = value.new_empty(rows, 2 * size)[:, ::2]
    else:
        raise ValueError(f"no layout {layout!r}")
    return place.copy_(value)


def in_order(oracle: Any, arguments: dict[str, Any], seed: int) -> Results:
    """The plain formula on permuted features, its gradients back in the order of the inputs."""
    matrices = [n for n, value in arguments.items() if is_float(value) and value.dim() == 2]
    first = arguments[matrices[0]]
    # Those of a guide or a teacher have a size of their own.
    embeddings = [n for n in matrices if arguments[n].shape[1] == first.shape[1]]
    order = torch.arange(first.shape[1], device=first.device)
    if seed:
        random = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(order), generator=random, device="cpu").to(first.device)
    moved = {n: learned(n, arguments[n].detach()[:, order]) for n in embeddings}
    back = order.argsort()
    results = evaluate(oracle, {**arguments, **moved})
    return {n: t[:, back] if n in embeddings else t for n, t in results.items()}


def evaluate(function: Any, arguments: dict[str, Any]) -> Results:
    """The loss and the gradient of every floating tensor that has one."""
    leaves = {n: value for n, value in arguments.items() if is_float(value) and value.requires_grad}
    loss = function(**arguments)
    # Neither one nor a power of two, and the same for every dtype.
    upstream = torch.full_like(loss, 0.6875)
    gradients = torch.autograd.grad(loss, list(leaves.values()), upstream)
    return {"loss": loss.detach(), **dict(zip(leaves, gradients, strict=True))}


def cast(arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        name: learned(name, value.detach().to(dtype)) if is_float(value) else value
        for name, value in arguments.items()
    }


def learned(name: str, value: Tensor) -> Tensor:
    """A leaf, but for the embeddings of a guide, which has no gradient."""
    return value.requires_grad_(not name.startswith("guide"))


def is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


@cache
def tests(name: str) -> Any:
    """A module of the tests that needs no pytest."""
    folder = str(ROOT / "tests")
    if folder not in sys.path:
        # First: the names are such as others have too.
        sys.path.insert(0, folder)
    return import_module(name)
