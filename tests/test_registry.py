"""The table of losses: whole, true, and what all lists of names agree with."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import contrastile
import oracles
import pytest
import torch
from contrastile import functional, losses
from contrastile.losses.inputs import Inputs
from contrastile.losses.module import Loss
from contrastile.losses.registry import LOSSES, LossEntry
from contrastile.verify import errors_of, evaluate

ROOT = Path(__file__).parents[1]
FILES = Path(losses.__file__).parent
FUNCTIONS = set(LOSSES)
MODULES = {entry.module.__name__ for entry in LOSSES.values()}
# What makes a loss of other losses.
AROUND = {"matryoshka"}, {"Matryoshka"}
# Losses of several vectors an item, and of any number of sets: the table is of so many matrices.
# Their tests are their own.
BESIDE = {"max_sim_info_nce", "gram_loss"}, {"MaxSimInfoNCE", "GramLoss"}
each_loss = pytest.mark.parametrize("entry", LOSSES.values(), ids=LOSSES)


def made(entry: LossEntry, n: int = 24, **options: Any) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    return entry.make_inputs(n, 8, torch.float64, generator=generator, **options)


def test_the_table_has_all_losses_that_are_written() -> None:
    """Every function of the files that a loss's decorator makes one."""
    written = {
        node.name
        for path in FILES.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(each) == "loss_function" for each in node.decorator_list)
    }
    assert written == FUNCTIONS | BESIDE[0]
    twins = [loss for loss in Loss.__subclasses__() if loss.__module__.startswith(losses.__name__)]
    assert {twin.__name__ for twin in twins} == MODULES | BESIDE[1]


def test_public_names_are_those_of_the_table() -> None:
    functions = FUNCTIONS | AROUND[0] | BESIDE[0]
    modules = MODULES | AROUND[1] | BESIDE[1]
    assert set(functional.__all__) == functions
    assert set(losses.__all__) == functions | modules | {"LogitScale", "Options", "Stats"}
    others = {"ContrastileWarning", "InputError", "LogitScale", "MemoryQueue", "Stats"}
    others |= {"__version__", "functional", "ops", "warm_up"}
    assert set(contrastile.__all__) == functions | modules | others


@each_loss
def test_an_entry_is_whole(entry: LossEntry) -> None:
    for public in (contrastile, functional, losses):
        assert getattr(public, entry.name) is entry.function
    assert getattr(contrastile, entry.module.__name__) is entry.module
    assert entry.module.function is entry.function
    assert entry.reference.__name__ == f"{entry.name}_reference"
    assert entry.reference.__module__ == entry.module.__module__ == entry.function.__module__
    assert callable(getattr(oracles, entry.name))
    assert "Source: " in str(entry.function.__doc__)


@each_loss
def test_the_source_is_the_functions(entry: LossEntry) -> None:
    """README's paper stands in the docstring: its first author and its year."""
    source = re.search(r"Source: (.*?)\n\n", str(entry.function.__doc__), re.DOTALL)
    author, year = re.fullmatch(r"(.+) et al\. (\d{4})", entry.paper).groups()  # type: ignore[union-attr]
    assert source and f"{author} et al." in source[1] and year in source[1]


@each_loss
def test_the_reference_is_the_oracle(entry: LossEntry) -> None:
    """Two formulas that know nothing of each other, in value and gradients."""
    inputs = made(entry, learned=True)

    def oracle(own: Inputs) -> torch.Tensor:
        return getattr(oracles, entry.name)(
            *own.tensors, normalize=entry.normalize, **own.parameters
        )

    errors = errors_of(evaluate(entry.formula, inputs), evaluate(oracle, inputs))
    assert set(errors) == {"loss", *(f"gradient of {name}" for name in inputs.leaves)}
    assert max(errors.values()) < 1e-12, errors


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("supcon_loss", {"variant": "in"}),
        ("dclw_loss", {"sigma": 2.0}),
        ("hard_negative_nce", {"beta": 0.5, "tau_plus": 0.1}),
        ("info_nce", {"positives": torch.arange(24).flip(0)}),
    ],
)
def test_options_of_a_reference_are_the_oracles(loss: str, options: dict[str, Any]) -> None:
    inputs = made(replace(LOSSES[loss], normalize=False))
    arguments, own = inputs.tensors, {**inputs.parameters, **options}
    expected = getattr(oracles, loss)(*arguments, **own)
    torch.testing.assert_close(LOSSES[loss].reference(*arguments, **own), expected)


@each_loss
def test_inputs_are_what_the_loss_takes(entry: LossEntry) -> None:
    inputs = made(entry)
    assert len(inputs.embeddings) == len(entry.embeddings)
    assert len(inputs.labels) == len(entry.labels)
    assert {len(e) for e in inputs.embeddings} == {24 // entry.views}
    assert entry.compute(inputs).dtype == torch.float64
    again = made(entry)
    assert all(map(torch.equal, inputs.tensors, again.tensors))
    lengths = torch.cat(inputs.embeddings).norm(dim=1)
    assert bool((lengths - 1).abs().max() > 0.1) == entry.normalize
    assert isinstance(inputs.scale, torch.Tensor) == entry.learned
    assert not made(entry, gradients=False).leaves


def test_inputs_with_more_keys() -> None:
    more = [entry for entry in LOSSES.values() if not entry.square]
    assert more
    for entry in more:
        query, key = made(entry, negatives=7).embeddings
        assert (len(query), len(key)) == (24, 31)


def row(entry: LossEntry) -> str:
    """The line of README's table."""
    call = f"{entry.name}({', '.join(entry.tensors)})"
    return f"| `{call}` | `{entry.module.__name__}` | {entry.summary} | {entry.paper} |"


def test_readme_has_the_table() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| function \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table.splitlines() == [row(entry) for entry in LOSSES.values()]
