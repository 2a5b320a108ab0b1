"""The Triton backend's own promises, its real kernels run by the interpreter.

What every backend owes is in the tests of losses and primitives; here is what only this one could
break: tile shapes, strips, both forms of the shift, pointers, half precision, waiting for a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import contrastile.functional as losses
import numpy as np
import oracles
import pytest
import torch
from cases import LOSSES, Choice, arguments_for, covering_choices, default_choice
from contrastile.backends.triton import launch
from contrastile.backends.triton.bound import Bound
from contrastile.backends.triton.encode import Source, encode, form, kept_by, placed, predicate
from contrastile.backends.triton.launch import INTERPRETED, Launch
from contrastile.backends.triton.program import Tiles
from contrastile.ops import log_sum_exp, pair_sum
from contrastile.problem import Channel, Equal, Index, Overlap, Pairs, Phi, Problem, Scores, Term
from contrastile.problem.pairs import Op
from contrastile.problem.problem import default_workspace
from contrastile.problem.spec import Stat
from contrastile.triton_kernels import predicates
from contrastile.triton_kernels.predicates import Predicate
from helpers import (
    Arguments,
    assert_results_close,
    cast,
    evaluate,
)
from selected import rest_in_gates
from test_error_rule import assert_rule
from waits import STEPS, Waits, as_on_a_device

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def crosses(loss: str) -> Iterator[pytest.ParameterSet]:
    """Pairs of options on small shapes. The interpreter takes a tenth of a second for each, so the
    test command sees every option and leaves further pairs to the gates.
    """
    first = covering_choices(loss, 1, 30)
    for seed, choice in enumerate(covering_choices(loss, 2, 30)):
        marks = () if choice in first else pytest.mark.gates
        yield pytest.param(loss, seed, choice, id=f"{loss}-{seed}", marks=marks)


CROSSES = [each for loss in LOSSES for each in crosses(loss)]
TRITON = {"backend": "triton"}
FORMS = "contrastile.backends.gpu.forms.SMALL"


@pytest.mark.parametrize(("loss", "seed", "choice"), CROSSES)
def test_options_crossed(loss: str, seed: int, choice: Choice) -> None:
    arguments = arguments_for(loss, choice, seed)
    got = evaluate(getattr(losses, loss), arguments, **TRITON)
    assert_results_close(got, evaluate(getattr(oracles, loss), arguments))


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=["one form", "both forms"])
def forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The general form alone, as of a small problem, or fixed shifts and a certificate."""
    if request.param == "both forms":
        monkeypatch.setattr(FORMS, 0)
    return request.param


@pytest.mark.parametrize(
    ("form", "scale", "dtype"),
    [
        (1, 100.0, torch.bfloat16),
        pytest.param(1, 100.0, torch.float32, marks=pytest.mark.gates),
        *(
            pytest.param(0, scale, dtype, marks=pytest.mark.gates)
            for scale in (1.0, 100.0)
            for dtype in DTYPES
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", rest_in_gates(LOSSES, ["clip_loss", "nt_xent", "siglip_loss"]))
def test_error_rule(
    loss: str, form: int, scale: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most the error of the plain formula at the same dtype, on every output; of the general
    form alone, and where scale 100 makes fixed shifts matter of both.
    """
    if form == 1:
        monkeypatch.setattr(FORMS, 0)
    choice = default_choice(
        loss, shape=(77, 48), scale="logit_scale tensor", value=scale, crowded=True
    )

    def make(seed: int) -> Arguments:
        return narrowed(arguments_for(loss, choice, seed), dtype)

    assert_rule(loss, make, "triton", count=2)


def narrowed(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """Embeddings of that dtype, an fp32 scale."""
    return cast(cast(arguments, dtype), torch.float32, "logit_scale")


OTHER_LAUNCHES = {
    "pointers": replace(INTERPRETED, descriptors=False),
    "tall tiles": Launch(64, 16, 32, 4, 1, descriptors=True),
    "groups of two": replace(INTERPRETED, rows=16, cols=16, group=2),
    "halves": replace(INTERPRETED, parts=2),
    "quarters": replace(INTERPRETED, cols=64, parts=4),
    "specialised": replace(INTERPRETED, parts=2, specialize=True),
}


IN_GATES = ("groups of two", "halves", "specialised")


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.gates if name in IN_GATES else ())
        for name in OTHER_LAUNCHES
    ]
)
def other_launch(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Launch]:
    chosen = OTHER_LAUNCHES[request.param]
    monkeypatch.setattr(launch, "INTERPRETED", chosen)
    launch.forget()
    yield chosen
    launch.forget()


@pytest.mark.usefixtures("other_launch")
@pytest.mark.parametrize(
    "loss", rest_in_gates(["clip_loss", "nt_xent", "siglip_loss"], ["nt_xent"])
)
def test_no_launch_changes_a_number(loss: str) -> None:
    choice = default_choice(loss, shape=(67, 20), scale="logit_scale tensor", bias="tensor")
    arguments = arguments_for(loss, choice)
    expected = evaluate(getattr(oracles, loss), arguments)
    for workspace in (None, 20000):
        got = evaluate(getattr(losses, loss), arguments, workspace=workspace, **TRITON)
        assert_results_close(got, expected)


@pytest.mark.parametrize("loss", ["clip_loss", "nt_xent", "siglip_loss"])
@pytest.mark.parametrize("small", [True, False])
def test_sizes_that_tiles_divide(loss: str, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their kernels ask no pair whether it is inside."""
    even = []
    start = Bound.start

    def recorded(self: Bound, tiles: Tiles, *arguments: Any) -> None:
        even.append(tiles.start.constants["EVEN"])
        start(self, tiles, *arguments)

    monkeypatch.setattr(Bound, "start", recorded)
    if not small:
        monkeypatch.setattr(FORMS, 0)
    rows = 2 * INTERPRETED.cols
    choice = default_choice(loss, shape=(rows, 20), scale="logit_scale tensor", bias="tensor")
    arguments = arguments_for(loss, choice)
    got = evaluate(getattr(losses, loss), arguments, **TRITON)
    assert_results_close(got, evaluate(getattr(oracles, loss), arguments))
    assert all(even) and even


@pytest.mark.parametrize("size", [1, 7, 33])
def test_sizes_that_no_descriptor_can_describe(size: int) -> None:
    """Rows that do not start on 16 bytes are copied once, to rows that do."""
    wide = torch.randn(30, size + 3, dtype=torch.float32)
    x, y = wide[:, 1 : 1 + size], wide[:, 2 : 2 + size].flip(0)
    got = log_sum_exp(x, y, columns=True, **TRITON)
    scores = x.double() @ y.double().T
    assert torch.allclose(got.rows[0].double(), scores.logsumexp(1), atol=1e-5)
    assert torch.allclose(got.columns[0].double(), scores.logsumexp(0), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("upstream", [1e-38, 1e-30, 1e-6, 1.0, 1e3])
def test_half_precision_weights_at_any_size_of_upstream(
    upstream: float, dtype: torch.dtype
) -> None:
    """G is brought into the range of fp16 by a power of two, and what is made of it back out."""
    x, y = ((torch.randn(20, 16) / 4).to(dtype) for _ in range(2))
    leaves = [torch.tensor(2.0, requires_grad=True), torch.zeros(20, requires_grad=True)]
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    got = log_sum_exp(x, y, scale=leaves[0], col_bias=leaves[1], columns=True, **TRITON)
    exact = wide[0] * (x.double() @ y.double().T) + wide[1]
    # Columns alone would give every bias the gradient 1.
    ours = torch.autograd.grad((got.rows[0].sum() + got.columns[0].sum()) * upstream, leaves)
    total = exact.logsumexp(1).sum() + exact.logsumexp(0).sum()
    theirs = torch.autograd.grad(total * upstream, wide)
    for mine, right in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.double() / upstream, right / upstream, rtol=1e-2)


def lowered(pairs: Pairs) -> Stat:
    x = torch.zeros(4, 2)
    channels = [Channel(pairs)]
    spec, _ = Problem.of("test", Scores.of("test", x, x + 1), channels, Channel).lower()
    return spec.stats[0]


def described(predicate: Predicate) -> tuple[object, ...]:
    """A predicate's function and operands, all the way down."""
    operands = (o if isinstance(o, int) else described(o) for o in predicate.operands)
    return predicate.holds, *operands


def test_predicates_are_records_of_device_functions() -> None:
    ids, masks, index = torch.arange(4), torch.arange(4), torch.arange(4)
    slots: list[Source] = []
    stat = lowered((~Equal(ids, ids) & Overlap(masks, ids)) | Index(index))
    left = predicates.negation, (predicates.equal, 0, 0)
    both = predicates.conjunction, left, (predicates.overlap, 1, 0)
    found = predicate(placed(kept_by(stat), slots))
    assert described(found) == (predicates.disjunction, both, (predicates.index, 2))
    assert slots == [stat.program[0][1], stat.program[2][1], stat.program[4][1]]


def test_holes_come_before_other_predicates() -> None:
    ids, index = torch.arange(4), torch.arange(4)
    hole = predicates.negation, (predicates.index, 0)
    for pairs, expected in (
        (Equal(ids, ids) & ~Index(index), (predicates.conjunction, hole, (predicates.equal, 1, 1))),
        (~Index(index), hole),
    ):
        (own,) = encode((lowered(pairs),)).forms
        assert own.pairs is not None and described(own.pairs) == expected


def test_equal_stats_are_one_record() -> None:
    """By its identity a compiled kernel is found."""
    pairs = ((int(Op.INDEX), 0), (int(Op.NOT),))
    assert form(None, False, pairs, ()) is form(None, False, tuple(pairs), ())
    assert form(None, False, pairs, ()) is not form(None, True, pairs, ())


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the kernels that were launched; none of them runs."""
    from triton.runtime.interpreter import GridExecutor

    names: set[str] = set()
    monkeypatch.setattr(
        GridExecutor, "__call__", lambda self, *_, **__: names.add(self.fn.__name__)
    )
    return names


SUMMED = {"siglip_loss": {"reduce"}}
# What settles the shifts of both forms.
SETTLING = {"choose_shifts", "certify", "merge_partials", "take_logs"}


@pytest.mark.parametrize("loss", STEPS)
def test_a_step_never_waits_for_the_device(
    loss: str, forms: str, launched: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_a_device(monkeypatch, looked=True)
    x, y = (torch.randn(24, 8).half().requires_grad_() for _ in range(2))
    scale = torch.tensor(10.0, requires_grad=True)
    with Waits() as waits:
        STEPS[loss](x, y, logit_scale=scale, **TRITON).backward()
    assert not waits.found
    # Of a sum of a function the weights' pass sums too.
    assert launched & {"reduce", "weigh"} == ({"reduce", "weigh"} - SUMMED.get(loss, set()))
    assert launched.isdisjoint(SETTLING) == (forms == "one form" or loss == "siglip_loss")


@pytest.mark.parametrize("phi", list(Phi), ids=lambda phi: phi.name.lower())
def test_pair_sums_in_half_precision(phi: Phi) -> None:
    x, y = (torch.randn(20, 12).half().requires_grad_() for _ in range(2))
    (got,) = pair_sum(x, y, terms=[Term(phi)], scale=2.0, **TRITON).rows
    (wide,) = pair_sum(x.double(), y.double(), terms=[Term(phi)], scale=2.0).rows
    grads = [torch.autograd.grad(out.sum(), (x, y)) for out in (got, wide)]
    assert torch.allclose(got.double(), wide, rtol=1e-5)
    found, exact = (dict(zip("xy", each, strict=True)) for each in grads)
    assert_results_close(found, exact, rtol=4 * torch.finfo(torch.half).eps)


def test_three_channels_with_class_weights() -> None:
    x, y = (torch.randn(21, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ids = torch.randint(0, 4, (21,))
    same = Equal(ids, ids)
    channels = [
        Channel(~Index.diagonal(21), class_log_weights=((same, 0.7),)),
        Channel(same, factor=-0.5, row_log_weight=torch.randn(21)),
        Channel(factor=2.0, col_log_weight=torch.randn(21)),
    ]
    results = [
        log_sum_exp(x, y, channels=channels, columns=True, backend=backend)
        for backend in ("triton", "reference")
    ]
    upstream = torch.randn(6, 21, dtype=torch.float64)
    both = []
    for stats in results:
        stacked = torch.stack([*stats.rows, *stats.columns])
        both.append((stacked, *torch.autograd.grad(stacked, (x, y), upstream)))
    for ours, theirs in zip(*both, strict=True):
        assert torch.allclose(ours, theirs)


def test_interpreted_bf16_rounds_to_nearest_even() -> None:
    from interpreter import rounded, widened

    values = torch.randn(1000) * 10.0 ** torch.randint(-20, 20, (1000,))
    assert np.array_equal(widened(rounded(values.numpy())), values.bfloat16().float().numpy())


@pytest.mark.parametrize(("memory", "expected"), [(8 * 2**30, 2**28), (128 * 2**30, 2**31)])
def test_a_gpu_lends_a_share_of_its_memory(
    memory: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = type("Properties", (), {"total_memory": memory})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert default_workspace(torch.device("cuda", 0)) == expected
    assert default_workspace(torch.device("cpu")) == 2**28


def test_tf32_by_the_switch_of_torch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    start = Bound.start

    def recorded(self: Bound, tiles: Tiles, *arguments: Any) -> None:
        chosen.append(tiles.start.constants["PRECISION"])
        start(self, tiles, *arguments)

    monkeypatch.setattr(Bound, "start", recorded)
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            for dtype in (torch.float32, torch.bfloat16):
                x, y = (torch.randn(8, 8).to(dtype).requires_grad_() for _ in "xy")
                loss = losses.clip_loss(x, y, temperature=1.0, **TRITON)
                # The backward pass weighs the scores that the forward pass summed.
                torch.backends.cuda.matmul.allow_tf32 = False
                loss.backward()
                torch.backends.cuda.matmul.allow_tf32 = allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert chosen == ["ieee"] * 4 + ["tf32"] * 2 + ["ieee"] * 2


class Unchecked(Index):
    """As in a trace, nobody has looked at the columns."""

    def within(self, m: int) -> bool:
        return True


@pytest.mark.parametrize("self_mode", [False, True])
def test_a_positive_that_there_is_not_makes_its_score_nan(self_mode: bool) -> None:
    """And reads no memory of others: of keys, nor of columns."""
    x = torch.randn(9, 4).requires_grad_()
    columns = torch.tensor([1, 0, 3, 2, 10**6, -1, 7, 6, 10**6])
    stats = log_sum_exp(
        x, None if self_mode else x.detach() + 1, positives=Unchecked(columns), backend="triton"
    )
    assert stats.positive is not None
    assert stats.positive.isnan().tolist() == [c == 10**6 for c in columns.tolist()]
    (stats.positive.nan_to_num().sum() + stats.rows[0].sum()).backward()
    assert x.grad is not None and bool(x.grad[:4].isfinite().all())
