"""torch.compile and torch.export of batches as they come: of other sizes, other numbers too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import contrastile.functional as losses
import pytest
import torch
from contrastile.ops import gather_dot, group_max, log_sum_exp, pair_sum, sweep, top_k
from contrastile.problem import Channel, Phi, Plane, Reduction, Term
from helpers import generator
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

pytestmark = pytest.mark.filterwarnings("ignore")

Call = Callable[[Tensor, Tensor, float], Tensor]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# Of two sets of embeddings, and of a number that changes from call to call.
LOSSES: dict[str, Call] = {
    "info_nce": lambda x, y, s: losses.info_nce(x, y, temperature=s),
    "clip_loss": lambda x, y, s: losses.clip_loss(x, y, logit_scale=s),
    "clip_loss, options": lambda x, y, s: losses.clip_loss(
        x, y, logit_scale=s, margin=s, label_smoothing=0.01 * s
    ),
    "nt_xent": lambda x, y, s: losses.nt_xent(x, y, temperature=s),
    "dcl_loss": lambda x, y, s: losses.dcl_loss(x, y, temperature=s),
    "dclw_loss": lambda x, y, s: losses.dclw_loss(x, y, temperature=s, sigma=s),
    "supcon_loss": lambda x, y, s: losses.supcon_loss(
        x, torch.arange(x.shape[0]) // 2, temperature=s
    ),
    "siglip_loss": lambda x, y, s: losses.siglip_loss(x, y, logit_scale=s, logit_bias=-s),
    "hard_negative_nce": lambda x, y, s: losses.hard_negative_nce(x, y, temperature=s, beta=0.5),
    "gist_loss": lambda x, y, s: losses.gist_loss(x, y, y, x, logit_scale=s, margin=0.01 * s),
    "qwen3_loss": lambda x, y, s: losses.qwen3_loss(x, y, logit_scale=s, margin=0.01 * s),
    "distill_clip_loss": lambda x, y, s: losses.distill_clip_loss(
        x, y, y, x, logit_scale=s, teacher_scale=0.5 * s
    ),
    "gram_loss": lambda x, y, s: losses.gram_loss(x, y, x + y, logit_scale=s),
    "max_sim_info_nce": lambda x, y, s: losses.max_sim_info_nce(
        x[:, None], y[:, None], logit_scale=s
    ),
    "matryoshka": lambda x, y, s: losses.matryoshka(
        losses.clip_loss, x, y, dims=(2, 5), dim_weights=(s, 1.0), logit_scale=s
    ),
}
# Their defaults are numbers too.
PRIMITIVES: dict[str, Call] = {
    "log_sum_exp": lambda x, y, s: log_sum_exp(x, y).rows[0].sum(),
    "log_sum_exp of a number": lambda x, y, s: log_sum_exp(x, y, scale=s).rows[0].sum(),
    "pair_sum": lambda x, y, s: pair_sum(x, y, terms=[Term(Phi.SQUARE)]).rows[0].sum(),
    "gather_dot": lambda x, y, s: gather_dot(x, y, torch.arange(x.shape[0])).sum(),
    "top_k": lambda x, y, s: top_k(x, y, k=3).values.sum(),
    "group_max": lambda x, y, s: group_max(x, y, torch.tensor([0, 2, 5])).values.sum(),
    "sweep": lambda x, y, s: (
        sweep([Plane(x, y)], [Reduction(channels=[Channel()], scale=s)])[0].rows[0].sum()
    ),
}


# Compiling is slow: of each kind one in the test command.
FIRST = ("clip_loss", "matryoshka", "max_sim_info_nce", "gather_dot")
each = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FIRST else pytest.mark.gates)
        for name in (*LOSSES, *PRIMITIVES)
    ],
)


def compiled_times(call: Call, numbers: list[float], rows: list[int], **options: bool) -> int:
    """How often the call was compiled, after it gave what it gives otherwise."""
    counter = CompileCounterWithBackend("aot_eager")
    function = torch.compile(call, backend=counter, fullgraph=True, **options)
    for seed, (number, count) in enumerate(zip(numbers, rows, strict=True)):
        rng = generator(seed)
        given = [torch.randn(count, 5, generator=rng).requires_grad_() for _ in "xy"]
        seen = []
        for own in (function, call):
            loss = own(*given, number)
            # Not all primitives have a gradient for both sets.
            seen.append([loss, *torch.autograd.grad(loss, given, allow_unused=True)])
        torch.testing.assert_close(*seen)
    return int(counter.frame_count)


@each
def test_a_number_that_is_scheduled(name: str) -> None:
    """Once for the first, once for all others."""
    call = (LOSSES | PRIMITIVES)[name]
    assert compiled_times(call, [2.0, 3.0, 4.5, 1.5], [12] * 4) <= 2


@each
def test_all_is_said_to_change(name: str) -> None:
    call = (LOSSES | PRIMITIVES)[name]
    assert compiled_times(call, [2.0, 3.0, 4.5, 1.5], [12, 14, 9, 17], dynamic=True) <= 2


class AsModule(nn.Module):
    """A call with its number."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call(x, y, 2.0)


@each
def test_exported_with_any_number_of_rows(name: str) -> None:
    module = AsModule((LOSSES | PRIMITIVES)[name])
    rows = torch.export.Dim("rows", min=4, max=512)
    x, y = torch.randn(2, 12, 5, generator=generator(0))
    graph = torch.export.export(module, (x, y), dynamic_shapes=({0: rows}, {0: rows}))
    for count in (7, 20):
        given = tuple(torch.randn(2, count, 5, generator=generator(count)))
        torch.testing.assert_close(graph.module()(*given), module(*given))


def test_a_number_that_selects_compiled_code() -> None:
    """A factor of the stat is part of the graph: each value is compiled, and right."""

    def call(x: Tensor, y: Tensor, s: float) -> Tensor:
        return losses.hard_negative_nce(x, y, temperature=0.5, beta=s)

    assert compiled_times(call, [0.5, 0.75, 1.0], [12] * 3) >= 3
