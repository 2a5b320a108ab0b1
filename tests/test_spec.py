"""The lowered problem: one value, in characters and back, and one table of its codes."""

from __future__ import annotations

import torch
from contrastile.backends import predicates
from contrastile.backends.triton.encode import PREDICATES
from contrastile.ops import log_sum_exp
from contrastile.problem import Channel, Equal, Index, Not, Problem, Scores
from contrastile.problem.channels import Phi
from contrastile.problem.pairs import Op
from contrastile.problem.spec import NONE, Program, Rule, Sizes, Spec, Stat, parse
from hypothesis import given
from hypothesis import strategies as some

slots = some.integers(NONE, 20)
switches = some.booleans()
numbers = some.floats(allow_nan=False, allow_infinity=False)
names = some.text(max_size=12)
programs: some.SearchStrategy[Program] = some.lists(
    some.tuples(some.sampled_from([int(op) for op in Op]), slots, slots), max_size=5
).map(tuple)
stats = some.builds(
    Stat,
    phi=some.none() | some.sampled_from([int(phi) for phi in Phi]),
    factor=numbers,
    holes=some.lists(slots, max_size=3).map(tuple),
    program=programs,
    classes=some.lists(some.tuples(programs, numbers), max_size=2).map(tuple),
    row_offset=slots,
    col_offset=slots,
)
KINDS = {
    "str": names,
    "bool": switches,
    "int": slots,
    "float": numbers,
    "float | None": some.none() | numbers,
}


def fields_of(kind: type, **chosen: some.SearchStrategy) -> dict[str, some.SearchStrategy]:
    """Any value of each field."""
    left = {n: t for n, t in kind.__annotations__.items() if n not in chosen}
    return {name: KINDS[getattr(text, "__forward_arg__", text)] for name, text in left.items()} | (
        chosen
    )


rules = some.builds(Rule, **fields_of(Rule))
specs = some.builds(
    Spec,
    **fields_of(
        Spec,
        stats=some.lists(stats, min_size=1, max_size=3).map(tuple),
        rule=some.none() | rules,
    ),
)


@given(specs)
def test_characters_and_back(spec: Spec) -> None:
    again = parse(spec.text())
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.text() == spec.text()
    assert isinstance(again.stats[0], Stat)
    assert again.rule is None or isinstance(again.rule, Rule)


@given(specs, specs)
def test_different_problems_have_different_characters(first: Spec, second: Spec) -> None:
    assert (first == second) == (first.text() == second.text())


def lowered(rows: int) -> tuple[Spec, list[torch.Tensor]]:
    x, y, ids = torch.randn(rows, 4), torch.randn(rows, 4), torch.arange(rows)
    scores = Scores.of("test", x, y, torch.tensor(2.0))
    pairs = Not(Index(ids)) & Not(Equal(ids, ids))
    problem = Problem.of("test", scores, [Channel(pairs), Channel(pairs)], Channel, positives=ids)
    return problem.lower()


def test_what_is_lowered_knows_no_sizes() -> None:
    (small, tensors), (large, others) = lowered(5), lowered(9)
    assert small == large
    assert len(tensors) == len(others) == 4
    assert Sizes.of(small, tensors)[:3] == (5, 5, 4)
    # The ids stand in the list once, whoever reads them.
    assert small.positives == 3
    assert small.stats[0].holes == (3,)
    assert small.stats[0].program == ((Op.EQUAL, 3, 3), (Op.NOT, NONE, NONE))


def test_a_parameter_that_is_scale_and_bias_stands_twice() -> None:
    """Each place has a gradient of its own, and autograd adds them."""
    both = torch.full((5,), 2.0, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 4, dtype=torch.float64)
    log_sum_exp(x, x + 1, scale=both, row_bias=both, col_bias=both).rows[0].cos().sum().backward()
    logits = both[:, None] * (x @ (x + 1).T) + both[:, None] + both
    (expected,) = torch.autograd.grad(logits.logsumexp(1).cos().sum(), both)
    torch.testing.assert_close(both.grad, expected)


# One table of codes; tests/test_native_calls.py has that of the compiled pass.


def test_torch_evaluates_every_code_once() -> None:
    leaves, branches = {**predicates.LEAVES, **predicates.ABOVE}, set(predicates.BRANCHES)
    assert set(leaves) | branches | {Op.NOT} == set(Op)
    assert len(predicates.LEAVES) + len(predicates.ABOVE) + len(branches) + 1 == len(Op)


def test_triton_has_a_function_of_every_code() -> None:
    assert set(PREDICATES) == set(Op)
    assert len(set(PREDICATES.values())) == len(PREDICATES)
