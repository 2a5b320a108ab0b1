"""Losses of several matrices of scores: engines, graphs, memory, edges, and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import contrastile.functional as losses
import oracles
import pytest
import torch
from cases import SWEPT, Choice, arguments_for, default_choice
from contrastile import InputError
from contrastile.testing import AllocationSpy
from helpers import Arguments, assert_results_close, cast, evaluate, floats
from processes import Processes
from rank_cases import compare_all
from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned_empty")
each_loss = pytest.mark.parametrize("loss", SWEPT)
# Those of one softmax over blocks of several shapes.
FURTHER = ("negatives", "hard_negatives")
WITH_BLOCKS = [loss for loss, options in SWEPT.items() if options.keys() & {*FURTHER}]
with_blocks = pytest.mark.parametrize("loss", WITH_BLOCKS)
# With every block, and options that a row's loss depends on.
RICH = {
    "negatives": 5,
    "hard_negatives": 3,
    "ids": "few",
    "margin": 0.1,
    "weights": True,
    "normalize": True,
    "bias": "tensor",
    "scale": "logit_scale per row",
}


def rich(loss: str, **changes: Any) -> Choice:
    own = {name: v for name, v in {**RICH, **changes}.items() if name in SWEPT[loss]}
    if own["scale"] not in SWEPT[loss]["scale"]:
        own["scale"] = "logit_scale tensor"
    return default_choice(loss, **{"shape": (23, 6), **own})


@each_loss
def test_engines(loss: str, engine: dict[str, Any]) -> None:
    """However blocks are cut, and whoever computes them."""
    arguments = arguments_for(loss, rich(loss, reduction="none"))
    expected = evaluate(getattr(oracles, loss), arguments)
    assert_results_close(evaluate(getattr(losses, loss), arguments, **engine), expected)


@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize("further", [0, 5])
@with_blocks
def test_few_rows(loss: str, further: int, rows: int) -> None:
    """Without negatives the loss is 0 and connected; further ones are enough."""
    of_them = dict.fromkeys(FURTHER, further)
    choice = rich(loss, shape=(rows, 6), margin=0.5, ids=None, **of_them)
    arguments = arguments_for(loss, choice)
    got = evaluate(getattr(losses, loss), arguments)
    assert_results_close(got, evaluate(getattr(oracles, loss), arguments))


@with_blocks
def test_no_further_negative(loss: str) -> None:
    """[0, D] and [N, 0, D] are as good as None."""
    arguments = arguments_for(loss, default_choice(loss, shape=(9, 6)))
    expected = getattr(losses, loss)(**arguments)
    if loss == "gist_loss":
        none = {"negatives": torch.zeros(0, 6), "guide_negatives": torch.zeros(0, 7)}
    else:
        none = {"hard_negatives": torch.zeros(9, 0, 6)}
    none = cast(none, torch.float64)
    torch.testing.assert_close(getattr(losses, loss)(**arguments, **none), expected)


@with_blocks
def test_empty_rows(loss: str) -> None:
    arguments = arguments_for(loss, default_choice(loss, shape=(1, 6)))
    with pytest.raises(InputError, match="1 of 1 rows have no positive or no negative"):
        getattr(losses, loss)(**{**arguments, "empty": "error"})


@with_blocks
def test_stats(loss: str) -> None:
    """Of all blocks: a positive that is the best has more than one share in all, others less than
    half of the denominator.
    """
    choice = rich(loss, scale="logit_scale", reduction="none", weights=False, bias=None)
    arguments = arguments_for(loss, choice)
    rows, stats = getattr(losses, loss)(**arguments, return_stats=True)
    torch.testing.assert_close(rows.detach(), stats.lse - stats.positive)
    # A share of its denominator below one half, and of one above the number of scores in it.
    assert bool((rows[stats.rank == 0] < torch.log(torch.tensor(3.0 * 23 + 5))).all())
    assert bool((rows[stats.rank > 0] > torch.log(torch.tensor(2.0))).all())
    assert bool((stats.rank > 0).any())
    torch.testing.assert_close(stats.accuracy, (stats.rank == 0).float().mean())


@each_loss
def test_compiled_is_eager(loss: str) -> None:
    torch._dynamo.reset()
    arguments = cast(arguments_for(loss, rich(loss, shape=(12, 6))), torch.float32)
    function = getattr(losses, loss)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    got, expected = (evaluate(own, arguments) for own in (compiled, function))
    assert_results_close(got, expected, rtol=2e-6, atol=1e-7)


@each_loss
def test_memory(loss: str) -> None:
    """Of all blocks the workspace; beside it copies of embeddings, and vectors."""
    n, size = 1500, 24
    changes = {"shape": (n, size), "scale": "logit_scale tensor"}
    arguments = cast(arguments_for(loss, rich(loss, **changes)), torch.float32)
    with AllocationSpy() as spy:
        getattr(losses, loss)(**arguments, workspace=2**19).backward()
    embeddings = sum(tensor.numel() * 4 for tensor in floats(arguments).values())
    assert spy.peak_bytes - 2**19 < 5 * embeddings + n * 1000
    assert spy.peak_bytes < n * n * 4


@with_blocks
def test_keys_do_not_pass_by(loss: str) -> None:
    arguments = arguments_for(loss, default_choice(loss, shape=(9, 6)))
    with pytest.raises(InputError, match=f"^{loss}: its scores are several matrices; leave"):
        getattr(losses, loss)(**arguments, offload="cpu")


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    pool = Processes(4)
    yield pool
    pool.stop()


def refused_ring(loss: str, arguments: Arguments) -> str:
    try:
        getattr(losses, loss)(**arguments, exchange="ring", group=torch.distributed.group.WORLD)
    except InputError as error:
        return str(error)
    return "nothing"


@each_loss
def test_ranks(loss: str, processes: Processes) -> None:
    """Each rank's rows among the columns of all, against one process."""
    shared: Choice = {"shape": (4, 6), "scale": "logit_scale tensor"}
    choices = [
        default_choice(loss, **shared),
        rich(loss, **shared, reduction="none"),
        rich(loss, **shared, empty="skip", bias=None),
    ]
    cases = [
        (loss, choice, layout, seed, convention, {})
        for seed, (layout, convention) in enumerate(
            [("even", "ddp"), ("uneven", "sum"), ("empty", "none"), ("sub-group", "ddp")]
        )
        for choice in choices
    ]
    processes.run(compare_all, cases)


@with_blocks
def test_no_ring(loss: str, processes: Processes) -> None:
    arguments = arguments_for(loss, default_choice(loss, shape=(4, 6)))
    plain = {k: v.detach() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    for message in processes.run(refused_ring, loss, plain):
        assert message.startswith(f"{loss}: its scores are several matrices, whose keys are")
