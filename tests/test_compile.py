"""Compiled by torch.compile, in one graph, losses and primitives give the numbers that they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import contrastile
import contrastile.functional as losses
import pytest
import torch
from cases import EVERY as LOSSES
from contrastile.ops import gather_dot, log_sum_exp, pair_sum
from contrastile.problem import Channel, Equal, Index, Not, Phi, Term
from helpers import Arguments, generator, unit_rows
from selected import rest_in_gates
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint
from traced import MIXES, assert_near, assert_same, call_of, mixed, numbers_of, plain

each_loss = pytest.mark.parametrize("loss", LOSSES)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """In one graph, run by torch's own operators unless ``options`` say otherwise."""
    return torch.compile(function, **{"backend": "aot_eager", "fullgraph": True, **options})


def rows_of(*seeds: int, rows: int = 12, grad: bool = True) -> list[Tensor]:
    made = [unit_rows(rows, 5, generator(seed)).float() for seed in seeds]
    return [x.requires_grad_() for x in made] if grad else made


# All values of all options in the gates; in the test command each loss with some of them.
PAIRS = [(loss, mix) for loss in LOSSES for mix in MIXES]
FIRST = [(loss, place % len(MIXES)) for place, loss in enumerate(LOSSES)]


@pytest.mark.parametrize(("loss", "mix"), rest_in_gates(PAIRS, FIRST))
def test_every_option_is_one_graph(loss: str, mix: int) -> None:
    call, tensors = call_of(loss, mix)
    agree = assert_near if mixed(loss, mix)["normalize"] else assert_same
    agree(numbers_of(compiled(call), tensors), numbers_of(call, tensors))


@pytest.mark.parametrize("loss", ["clip_loss", "supcon_loss"])
def test_batch_sizes_do_not_recompile(loss: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    function = None
    for rows in (12, 20, 7, 33, 26):
        call, tensors = plain(loss, rows)
        function = function or compiled(call, backend=counter)
        assert_same(numbers_of(function, tensors), numbers_of(call, tensors))
    assert counter.frame_count <= 3


def test_inductor_with_the_least_overhead() -> None:
    call, tensors = plain("clip_loss")
    function = compiled(call, backend="inductor", mode="reduce-overhead")
    for ours, theirs in zip(numbers_of(function, tensors), numbers_of(call, tensors), strict=True):
        torch.testing.assert_close(ours, theirs)


PRIMITIVES: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "log_sum_exp": lambda x, y, ids: log_sum_exp(
        x,
        y,
        scale=7.0,
        columns=True,
        channels=[Channel(Not(Equal(ids, ids))), Channel(factor=-0.5, row_log_weight=x.sum(1))],
        positives=Index.diagonal(12),
        ranks=True,
    ),
    "log_sum_exp of oneself": lambda x, y, ids: log_sum_exp(x, scale=x.sum()),
    "pair_sum": lambda x, y, ids: pair_sum(
        x,
        y,
        terms=[Term(Phi.SQUARE), Term(Phi.RELU, Not(Equal(ids, ids) | Index(ids)))],
        row_bias=y.sum(1),
    ),
    "gather_dot": lambda x, y, ids: gather_dot(x, y, ids, scale=x.mean(1)),
    "gather_dot of lists": lambda x, y, ids: gather_dot(
        x, y, ids.repeat(2), torch.arange(13) * 2, col_bias=y.mean(1)
    ),
}


def total(found: Any) -> Tensor:
    """All that is differentiable of what a primitive gives, each with a weight of its own."""
    if isinstance(found, Tensor):
        return (found * torch.linspace(1, 2, len(found))).sum()
    stats = [*found.rows, *found.columns, found.positive]
    return torch.stack(
        [(k + 1) * s.cos().sum() for k, s in enumerate(stats) if s is not None]
    ).sum()


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives(name: str) -> None:
    x, y = rows_of(1, 2)
    ids = torch.arange(12) // 2

    def call(x: Tensor, y: Tensor) -> Tensor:
        return total(PRIMITIVES[name](x, y, ids))

    tensors: Arguments = {"x": x, "y": y}
    assert_same(numbers_of(compiled(call), tensors), numbers_of(call, tensors))


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
def test_gradients_of_some_or_none(wanted: tuple[bool, bool]) -> None:
    tensors = rows_of(1, 2, grad=False)
    given = {n: t.requires_grad_(w) for n, t, w in zip("xy", tensors, wanted, strict=True)}

    def call(x: Tensor, y: Tensor) -> Tensor:
        return losses.clip_loss(x, y, temperature=0.2)

    if any(wanted):
        assert_same(numbers_of(compiled(call), given), numbers_of(call, given))
    else:
        assert torch.equal(compiled(call)(**given), call(**given))
        assert not compiled(call)(**given).requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Callable[[], Any]) -> None:
    call, tensors = plain("clip_loss")
    function = compiled(call)
    with mode():
        assert torch.equal(function(**tensors), call(**tensors))
    assert_same(numbers_of(function, tensors), numbers_of(call, tensors))


def test_one_parameter_as_scale_and_bias() -> None:
    x, y = rows_of(1, 2)
    both = torch.tensor(3.0, requires_grad=True)

    def call(x: Tensor, y: Tensor, both: Tensor) -> Tensor:
        return losses.siglip_loss(x, y, logit_scale=both, logit_bias=both)

    tensors: Arguments = {"x": x, "y": y, "both": both}
    assert_same(numbers_of(compiled(call), tensors), numbers_of(call, tensors))


class Model(nn.Module):
    """A layer, and a loss that learns its scale and bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(5, 4)
        self.loss = contrastile.SigLip(
            logit_scale=nn.Parameter(torch.tensor(10.0)),
            logit_bias=nn.Parameter(torch.tensor(-10.0)),
            normalize=True,
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = self.loss(self.layer(x), y)
        return loss


def trained(compile_it: bool) -> list[Tensor]:
    """Losses of four steps, and the parameters after them."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    forward = compiled(model) if compile_it else model
    x, y = unit_rows(12, 5, generator(1)).float(), unit_rows(12, 4, generator(2)).float()
    seen = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = forward(x, y)
        loss.backward()
        optimizer.step()
        seen.append(loss.detach())
    return [*seen, *(p.detach() for p in model.parameters())]


def test_training_of_a_module() -> None:
    got, expected = trained(True), trained(False)
    assert expected[3] < expected[0]
    # The module normalises.
    assert_near(list(got), list(expected))


def test_a_step_with_its_backward_pass_inside() -> None:
    """torch leaves the graph there; the numbers stay."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        loss = losses.info_nce(x, y, temperature=0.2)
        loss.backward()
        assert x.grad is not None
        return loss.detach(), x.grad

    given = rows_of(1, 2, grad=False)
    assert_same(list(compiled(step, fullgraph=False)(*given)), list(step(*given)))


@pytest.mark.parametrize("loss", ["clip_loss", "info_nce"])
def test_checkpoints(loss: str) -> None:
    call, tensors = plain(loss)

    def checkpointed(**tensors: Tensor) -> Any:
        return checkpoint(lambda: call(**tensors), use_reentrant=False)

    assert_same(numbers_of(compiled(checkpointed), tensors), numbers_of(call, tensors))


def test_autocast() -> None:
    """Whoever multiplies in bf16 around a loss gets it of bf16 embeddings."""
    x, y = rows_of(1, 2)
    layer = torch.eye(5)

    def call(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return losses.clip_loss(x @ layer, y @ layer, temperature=0.2)

    tensors: Arguments = {"x": x, "y": y}
    assert_same(numbers_of(compiled(call), tensors), numbers_of(call, tensors))


def test_saved_tensors_may_move() -> None:
    call, tensors = plain("clip_loss")
    expected = numbers_of(call, tensors)
    with save_on_cpu():
        assert_same(numbers_of(compiled(call), tensors), expected)


def test_two_backward_passes_of_one_graph() -> None:
    x, y = rows_of(1, 2)
    loss = compiled(lambda x, y: losses.nt_xent(x, y, temperature=0.2))(x, y)
    first = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(loss, x))


def test_arguments_are_checked_in_compiled_code() -> None:
    x, y = rows_of(1, 2)

    def call(x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        return losses.clip_loss(x, y, ids=ids, temperature=0.2)

    with pytest.raises(Exception, match=r"clip_loss: ids must have shape"):
        compiled(call)(x, y, torch.arange(5))
    with pytest.raises(contrastile.InputError, match=r"^clip_loss: ids must have shape"):
        compiled(call, fullgraph=False)(x, y, torch.arange(5))


# Values, which nobody can check while a graph is made of all values: docs/faq.md.


@pytest.mark.parametrize("column", [12, 2**40, -2])
def test_positives_that_are_not_there(column: int) -> None:
    x, y = rows_of(1, 2)
    positives = torch.arange(12)
    functions: dict[str, Callable[..., Tensor]] = {
        "info_nce: positives": lambda p: losses.info_nce(x, y, positives=p, temperature=0.2),
        "gather_dot: columns": lambda p: gather_dot(x, y, p),
    }
    for name, function in functions.items():
        call = compiled(function)
        call(positives)
        wrong = positives.masked_fill(positives == 3, column)
        with pytest.raises(contrastile.InputError, match=rf"^{name} must lie in \[-1, 12\)"):
            call(wrong)


@pytest.mark.parametrize("temperature", [0.0, -1.0, torch.nan])
def test_temperatures_that_are_not_positive(temperature: float) -> None:
    x, y = rows_of(1, 2)
    call = compiled(lambda x, y, t: losses.clip_loss(x, y, temperature=t))
    assert call(x, y, torch.tensor(temperature)).isnan()
    assert call(x, y, torch.tensor(0.5)).isfinite()


def test_empty_rows_that_are_an_error() -> None:
    (z,) = rows_of(1)
    call = compiled(lambda z, labels: losses.supcon_loss(z, labels, temperature=0.5, empty="error"))
    assert call(z, torch.arange(12)).isnan()
    assert call(z, torch.arange(12) // 2).isfinite()
